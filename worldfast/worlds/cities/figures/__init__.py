"""Figures of the cities' world, and the catalogue of all that a study of it shows: `draw_study` draws it."""

from worldfast.worlds.cities.figures.atlantis import atlantis_map, atlantis_maps
from worldfast.worlds.cities.figures.catalogue import CATALOGUE, GROUPS, Entry, draw_study
from worldfast.worlds.cities.figures.drawings import task_drawings
from worldfast.worlds.cities.figures.histograms import deviation_histogram, error_histograms

__all__ = [
    "CATALOGUE",
    "GROUPS",
    "Entry",
    "atlantis_map",
    "atlantis_maps",
    "deviation_histogram",
    "draw_study",
    "error_histograms",
    "task_drawings",
]
