"""Analyses of activations. Each is a function of arrays and works on any model's.

    cka             CKA of pairs, matrices and minibatches; standard errors over items
    cka_tables      tables of CKA for several variants, and over training
    gram, hsic      sums over Gram matrices; what CKA makes of them
    procrustes      disparity of the first principal components
    knn             mutual k-nearest-neighbour alignment
    dimension       participation ratio, two nearest neighbours
    probe           linear probes, over layers and training
    generalisation  a probe tested on items it was not fitted on, and on items learned later
    alone           a probe of some items alone, tried on those left out in turn
    left_out        decoders that are tried on a region they were not fitted on, and the angles of what they read
    units           sparseness of single units, and what they respond to
    film            where a probe places each item over training, and its principal components
    pca             principal components in one frame over training; the mixed view
    scale           what makes a statistic the same in any unit

Analyses of a study's tables, or of any tables with the same columns:

    trends          means over seeds for the same, other and disjoint tasks, with standard errors
    stats           means, correlations, permutation tests and bootstrap intervals, with n and unit
"""

from worldfast.analysis.alone import probe_alone
from worldfast.analysis.cka import cka, cka_matrix, cka_minibatch, cka_standard_error
from worldfast.analysis.cka_tables import cka_over_training, cka_table
from worldfast.analysis.dimension import dimension_table, participation_ratio, two_nn
from worldfast.analysis.film import film_table
from worldfast.analysis.fixed_points import FixedPoints, fixed_points, steps_of_return
from worldfast.analysis.generalisation import FITTED, HELD_OUT, probe_generalisation
from worldfast.analysis.gram import gram_statistics
from worldfast.analysis.knn import mutual_knn, mutual_knn_table
from worldfast.analysis.left_out import LeftOut, adam_decoders, angles, left_out, r2_of
from worldfast.analysis.pca import mixed_over_training, pca_over_training
from worldfast.analysis.probe import held_out, linear_probe, penalty, probe_over_training, probe_table
from worldfast.analysis.procrustes import procrustes, procrustes_table
from worldfast.analysis.stats import Mean, bootstrap, correlation, jackknife_error, mantel, mean_and_error
from worldfast.analysis.tables import need_columns
from worldfast.analysis.trends import CROSS_TASK, DISJOINT_TASKS, SAME_TASK, as_matrix, task_matrix, trends
from worldfast.analysis.units import mixed_selectivity, sparsity

__all__ = [
    "CROSS_TASK",
    "DISJOINT_TASKS",
    "FITTED",
    "FixedPoints",
    "HELD_OUT",
    "LeftOut",
    "SAME_TASK",
    "Mean",
    "adam_decoders",
    "angles",
    "as_matrix",
    "bootstrap",
    "cka",
    "cka_matrix",
    "cka_minibatch",
    "cka_over_training",
    "cka_standard_error",
    "cka_table",
    "correlation",
    "dimension_table",
    "film_table",
    "fixed_points",
    "gram_statistics",
    "held_out",
    "jackknife_error",
    "left_out",
    "linear_probe",
    "mantel",
    "mean_and_error",
    "mixed_over_training",
    "mixed_selectivity",
    "mutual_knn",
    "mutual_knn_table",
    "need_columns",
    "participation_ratio",
    "pca_over_training",
    "penalty",
    "probe_alone",
    "probe_generalisation",
    "probe_over_training",
    "probe_table",
    "procrustes",
    "procrustes_table",
    "r2_of",
    "sparsity",
    "steps_of_return",
    "task_matrix",
    "trends",
    "two_nn",
]
