"""Figures of the world of cities; `CATALOGUE.draw` draws all that a study of it has the tables for."""

from worldfast.worlds.cities.figures.alike import cka, cka_over_training, cka_trends
from worldfast.worlds.cities.figures.catalogue import CATALOGUE
from worldfast.worlds.cities.figures.doses import beside_distance, dose_response, draw_doses, what_moves
from worldfast.worlds.cities.figures.drawings import task_drawings
from worldfast.worlds.cities.figures.effects import deviation, improvement
from worldfast.worlds.cities.figures.histograms import deviation_histogram, error_histograms
from worldfast.worlds.cities.figures.taught import taught_map, taught_maps
from worldfast.worlds.cities.figures.transfer import agreement, cka_against_improvement, patching

draw_study = CATALOGUE.draw

__all__ = [
    "CATALOGUE",
    "agreement",
    "beside_distance",
    "cka",
    "cka_against_improvement",
    "cka_over_training",
    "cka_trends",
    "deviation",
    "deviation_histogram",
    "dose_response",
    "draw_doses",
    "draw_study",
    "error_histograms",
    "improvement",
    "patching",
    "task_drawings",
    "taught_map",
    "taught_maps",
    "what_moves",
]
