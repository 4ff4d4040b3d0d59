"""Reading the world back out of activations. Each analysis is a function of arrays and works on anyone's.

    cka             CKA of pairs, matrices, tables, over training; standard errors over cities
    procrustes      disparity of the first principal components
    knn             mutual k-nearest-neighbour alignment
    dimension       participation ratio, two nearest neighbours
    probe           linear probes, over layers and training, on the first components
    generalisation  a probe on cities that it was not fitted on, and on new ones
    pca             components in one frame over training; the mixed view

From the tables of a study, or anyone's with the columns:

    trends          means over seeds, same, other and disjoint tasks, with standard errors
    stats           means, correlations, permutation tests, bootstrap, with n and unit
"""
