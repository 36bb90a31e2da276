"""A reranker's losses against the formulas in float64, and against a head over every position."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from components.objective.judging import Judging, judging_from
from components.objective.yes_no import (
    full_vocabulary_loss,
    label_targets,
    listwise_loss,
    softmax_targets,
    two_way_loss,
)

GROUP = torch.tensor([0, 0, 0, 1, 2, 2])
Z = torch.tensor([0.5, -2.0, 30.0, 1.0, -700.0, -701.0])


def by_group(values):
    return [values[(group == GROUP).numpy()] for group in range(3)]


def test_last_position_equals_the_loss_of_the_whole_sequence() -> None:
    """Naive: logits of every position, labels of -100 but at the last one, as trainers of language models do."""
    torch.manual_seed(0)
    B, T, D, V = 5, 17, 24, 301
    hidden_BTD = torch.randn(B, T, D, requires_grad=True)
    head_VD = torch.randn(V, D, requires_grad=True)
    last_B, token_B = torch.tensor([16, 3, 0, 9, 16]), torch.tensor([7, 7, 300, 0, 2])
    labels_BT = torch.full((B, T), -100)
    labels_BT[torch.arange(B), last_B] = token_B
    naive = cross_entropy((hidden_BTD @ head_VD.T).view(-1, V), labels_BT.view(-1))
    expected = torch.autograd.grad(naive, (hidden_BTD, head_VD))
    ours = full_vocabulary_loss(hidden_BTD[torch.arange(B), last_B] @ head_VD.T, token_B).mean()
    assert ours.item() == pytest.approx(naive.item(), rel=1e-6, abs=1e-6)
    for found, wanted in zip(torch.autograd.grad(ours, (hidden_BTD, head_VD)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_two_way_is_the_softmax_over_two_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 5, (20, 2))  # no, yes
    label = rng.integers(0, 2, 20)
    expected = np.logaddexp(logits[:, 0], logits[:, 1]) - logits[np.arange(20), label]
    z = torch.from_numpy(logits[:, 1] - logits[:, 0])
    np.testing.assert_allclose(two_way_loss(z, torch.from_numpy(label)), expected, rtol=1e-5, atol=1e-6)


def test_listwise_is_the_share_of_the_positive() -> None:
    label = torch.tensor([1, 0, 0, 1, 0, 1])
    found = listwise_loss(Z, label_targets(label, GROUP, 3), GROUP, 3)
    expected = []
    for z, one in zip(by_group(Z.double().numpy()), by_group(label.numpy()), strict=True):
        expected.append(np.logaddexp.reduce(z) - z[one == 1][0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert expected[1] == 0  # alone, a document says nothing


def test_distillation_is_least_where_the_teacher_is_met() -> None:
    teacher = torch.tensor([3.0, 1.0, 0.0, 2.0, 5.0, 4.0])
    target = softmax_targets(teacher, GROUP, 3)
    entropy = [-(p * np.log(p)).sum() for p in by_group(target.double().numpy())]
    met = listwise_loss(
        teacher + GROUP, target, GROUP, 3
    )  # what all documents of a query gain changes nothing
    np.testing.assert_allclose(met, entropy, rtol=1e-5, atol=1e-6)
    assert (listwise_loss(Z, target, GROUP, 3) >= met - 1e-6).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "hinge"}, "objective.loss is 'hinge'"),
        ({"temperature": 0}, "objective.temperature is 0"),
        ({"label_weights": "some"}, "objective.label_weights is 'some'"),
        ({"margin": 1}, "objective.margin is not a field"),
    ],
)
def test_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judging_from(fields)
    assert judging_from({}) == Judging()
