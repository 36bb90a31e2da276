"""Labels told from vectors, or found in them: linear probes and clusters."""

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.linear_model import LogisticRegression

ITERATIONS = 100


def probe(
    train_ND: np.ndarray,
    train_label_N: np.ndarray,
    test_MD: np.ndarray,
    *,
    per_label: int,
    experiments: int,
    seed: int,
) -> np.ndarray:
    """What logistic regressions on few rows of each label say of other rows, int64 [M, experiments].

    As MTEB's classification (Muennighoff et al. 2023, section 3.2): `per_label` rows of each label are drawn anew
    for each experiment, and a regression of at most 100 iterations is fitted to them.

    Args:
        train_label_N: numbers of the labels.
        per_label: of a label that has fewer rows, all.
    """
    predicted = []
    for experiment in range(experiments):
        rng = np.random.default_rng((seed, experiment))
        order = rng.permutation(len(train_ND))
        drawn = np.concatenate(
            [order[train_label_N[order] == label][:per_label] for label in np.unique(train_label_N)]
        )
        regression = LogisticRegression(max_iter=ITERATIONS, random_state=seed)
        regression.fit(train_ND[drawn], train_label_N[drawn])
        predicted.append(regression.predict(test_MD))
    return np.stack(predicted, axis=1).astype(np.int64)


def cluster(vector_ND: np.ndarray, count: int, *, experiments: int, seed: int) -> np.ndarray:
    """Clusters by k-means in small batches of 500, as MTEB takes them, int64 [N, experiments]."""
    found = [
        MiniBatchKMeans(count, batch_size=500, n_init="auto", random_state=seed + experiment).fit_predict(
            vector_ND
        )
        for experiment in range(experiments)
    ]
    return np.stack(found, axis=1).astype(np.int64)
