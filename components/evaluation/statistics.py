"""The figures of each kind of evaluation but retrieval, by the libraries that define them."""

from collections.abc import Callable, Mapping

import numpy as np
import scipy.stats
from sklearn.metrics import average_precision_score, precision_recall_curve, v_measure_score

from components.evaluation.labelled import Kind

Statistic = Callable[..., float]


def spearman(cosine_N: np.ndarray, score_N: np.ndarray) -> float:
    """Rank correlation of cosines with the scores that people gave; NaN where either is constant."""
    return (
        float(scipy.stats.spearmanr(cosine_N, score_N).statistic)
        if _varies(cosine_N, score_N)
        else float("nan")
    )


def pearson(cosine_N: np.ndarray, score_N: np.ndarray) -> float:
    """Linear correlation of cosines with the scores that people gave; NaN where either is constant."""
    return (
        float(scipy.stats.pearsonr(cosine_N, score_N).statistic)
        if _varies(cosine_N, score_N)
        else float("nan")
    )


def average_precision(cosine_N: np.ndarray, label_N: np.ndarray) -> float:
    """Of pairs ordered by cosine, label 1 being what is looked for; NaN without such a pair."""
    return float(average_precision_score(label_N, cosine_N)) if label_N.any() else float("nan")


def best_f1(cosine_N: np.ndarray, label_N: np.ndarray) -> float:
    """F1 at the cosine that divides the pairs best; NaN without a pair of label 1."""
    if not label_N.any():
        return float("nan")
    precision_T, recall_T, _ = precision_recall_curve(label_N, cosine_N)
    total_T = precision_T + recall_T
    return float(
        np.divide(2 * precision_T * recall_T, total_T, out=np.zeros_like(total_T), where=total_T > 0).max()
    )


def best_accuracy(cosine_N: np.ndarray, label_N: np.ndarray) -> float:
    """Share of pairs that are told right at the cosine that divides them best."""
    order = np.argsort(-cosine_N, kind="stable")
    sorted_N, label_N = cosine_N[order], label_N[order].astype(np.int64)
    # called 1 from the first down to the t-th, which must be the last of its cosine
    right_T = np.concatenate([[0], np.cumsum(2 * label_N - 1)]) + (1 - label_N).sum()
    cut_T = (
        np.concatenate([[True], sorted_N[1:] < sorted_N[:-1], [True]]) if len(cosine_N) else np.array([True])
    )
    return float(right_T[cut_T].max() / len(label_N))


def accuracy(predicted_NE: np.ndarray, label_N: np.ndarray) -> float:
    """Share of rows told right, mean over E experiments."""
    return float((predicted_NE == label_N[:, None]).mean())


def macro_f1(predicted_NE: np.ndarray, label_N: np.ndarray) -> float:
    """F1, mean over the classes and over E experiments."""
    return float(np.mean([_f1_by_class(predicted_N, label_N)[0].mean() for predicted_N in predicted_NE.T]))


def v_measure(cluster_NE: np.ndarray, label_N: np.ndarray) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007), mean over E experiments."""
    return float(np.mean([v_measure_score(label_N, cluster_N) for cluster_N in cluster_NE.T]))


def found_share(found_N: np.ndarray, row_N: np.ndarray) -> float:
    """Share of sentences whose nearest one in the other language is their translation."""
    return float((found_N == row_N).mean())


def weighted_f1(found_N: np.ndarray, row_N: np.ndarray) -> float:
    """F1 where each sentence is a class of its own, as MTEB takes it for bitext mining."""
    f1_C, rows_C = _f1_by_class(found_N, row_N)
    return float(np.average(f1_C, weights=rows_C))


def _f1_by_class(given_N: np.ndarray, right_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of every class that is given or right, and the rows of which it is right, [C] each.

    scikit-learn's f1_score, which an interval would call ten thousand times, takes some milliseconds each.
    """
    classes, code = np.unique(np.concatenate([given_N, right_N]), return_inverse=True)
    given, right = np.split(code, 2)
    given_C, rows_C, both_C = (
        np.bincount(each, minlength=len(classes)) for each in (given, right, right[given == right])
    )
    return 2 * both_C / (given_C + rows_C), rows_C


STATISTICS: Mapping[Kind, Mapping[str, Statistic]] = {
    "similarity": {"spearman": spearman, "pearson": pearson},
    "pair-classification": {"average_precision": average_precision, "f1": best_f1, "accuracy": best_accuracy},
    "classification": {"accuracy": accuracy, "macro_f1": macro_f1},
    "clustering": {"v_measure": v_measure},
    "bitext": {"f1": weighted_f1, "accuracy": found_share},
}
"""By kind its figures, the main one first; each of the two columns of `outcome.Outcome.per_row`."""

COLUMNS: Mapping[Kind, tuple[str, str]] = {
    "similarity": ("cosine", "score"),
    "pair-classification": ("cosine", "label"),
    "classification": ("predicted", "label"),
    "clustering": ("cluster", "label"),
    "bitext": ("found", "row"),
}
"""What the model gave, what is right."""


def _varies(*columns: np.ndarray) -> bool:
    return all(np.ptp(column) > 0 for column in columns)
