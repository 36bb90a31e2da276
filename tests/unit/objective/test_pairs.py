"""Sentence-BERT's two losses against their formulas written out in float64."""

import math

import numpy as np
import pytest
import torch

from components.objective.kinds import Classification, Regression, any_objective_from
from components.objective.objective import Objective
from components.objective.pairs import (
    PairClassifier,
    ScoredPairs,
    classification_loss,
    regression_loss,
    scored_pairs,
)


def some_pairs(scores: list[float]) -> ScoredPairs:
    """Three rows; the first has one hard negative, the last two."""
    torch.manual_seed(0)
    query, positive, negative = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    return scored_pairs(query, positive, negative, torch.tensor([0, 2, 2]), torch.tensor(scores))


def test_each_query_with_its_positive_and_with_its_negatives():
    pairs = some_pairs([1.0, float("nan"), 0.0])
    assert pairs.negative_N.tolist() == [False] * 3 + [True] * 3
    torch.testing.assert_close(pairs.left_ND[3:], pairs.left_ND[[0, 2, 2]])


def test_classification_is_a_softmax_over_u_v_and_their_difference():
    pairs = some_pairs([2.0, float("nan"), 0.0])
    classifier = PairClassifier(4, 3).double()
    found = classification_loss(pairs, Classification(classes=3), classifier)
    classes = [2, 1, 0, 0, 0, 0]  # without a score a positive is 1; a negative is 0
    weight = classifier.weight_CD.detach().numpy()
    expected, right = 0.0, 0
    for u, v, wanted in zip(pairs.left_ND.tolist(), pairs.right_ND.tolist(), classes, strict=True):
        features = [2 * x for x in [*u, *v, *(abs(a - b) for a, b in zip(u, v, strict=True))]]  # 2: root of 4
        logits = weight @ features
        expected -= (logits[wanted] - math.log(np.exp(logits).sum())) / 6
        right += int(logits.argmax()) == wanted
    assert float(found.share.detach()) == pytest.approx(expected, rel=1e-6)
    assert found.statistics == pytest.approx({"loss": expected, "accuracy": right / 6, "rows": 6}, rel=1e-6)
    with pytest.raises(ValueError, match=r"a pair's score is 2.0; with 2 classes it must be a whole number"):
        classification_loss(pairs, Classification(classes=2), classifier)


def test_regression_brings_the_cosine_to_the_score():
    pairs = some_pairs([5.0, 2.0, float("nan")])
    found = regression_loss(pairs, Regression(lowest=1.0, highest=5.0))
    targets = [1.0, 0.25, 1.0, 0.0, 0.0, 0.0]
    cosines = [
        np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v)
        for u, v in zip(pairs.left_ND.tolist(), pairs.right_ND.tolist(), strict=True)
    ]
    expected = np.mean([(cosine - target) ** 2 for cosine, target in zip(cosines, targets, strict=True)])
    assert float(found.share.detach()) == pytest.approx(expected, rel=1e-6)
    assert found.statistics["mean_cosine"] == pytest.approx(np.mean(cosines), rel=1e-6)
    with pytest.raises(ValueError, match=r"score is 5.0; it must lie between lowest 0.0 and highest 1.0"):
        regression_loss(pairs, Regression())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "triplet"}, "objective.kind is 'triplet'; it must be one of contrastive, classification"),
        ({"kind": "regression", "margin": 1}, "objective.margin is not a field of regression"),
        ({"kind": "regression", "lowest": 1, "highest": 1}, "it must be below highest"),
        ({"kind": "classification", "classes": 1}, "it must be at least 2"),
        ({"kind": "reconstruction", "encoder_masked": 0}, "it must lie between 0 and 1"),
    ],
)
def test_objectives_that_are_none(config, message):
    with pytest.raises(ValueError, match=message):
        any_objective_from(config)


def test_without_a_kind_it_is_contrastive():
    assert any_objective_from({"temperature": 0.05}) == Objective(temperature=0.05)
