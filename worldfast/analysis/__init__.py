"""Analyses of activations. Each is a function of arrays and works on any model's.

    cka             CKA of pairs, matrices and tables, over training; standard errors over cities
    procrustes      disparity of the first principal components
    knn             mutual k-nearest-neighbour alignment
    dimension       participation ratio, two nearest neighbours
    probe           linear probes, over layers and training
    generalisation  a probe tested on cities it was not fitted on, and on cities learned later
    pca             principal components in one frame over training; the mixed view

Analyses of a study's tables, or of any tables with the same columns:

    trends          means over seeds for the same, other and disjoint tasks, with standard errors
    stats           means, correlations, permutation tests and bootstrap intervals, with n and unit
"""
