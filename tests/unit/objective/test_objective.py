"""What an objective may say, its presets, and what a task changes in it."""

from dataclasses import replace

import pytest
import torch

from components.objective.contrastive import ContrastiveBatch
from components.objective.distributed import contrastive_loss
from components.objective.objective import Objective, for_task, objective_from


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0}, "objective.temperature is 0"),
        ({"tau": 0.1}, "objective.tau is not a field"),
        ({"preset": "papr"}, "objective.preset is 'papr'"),
        ({"masked_document_document": "qd"}, "objective.masked_document_document is 'qd'"),
        ({"other_documents": "all"}, "objective.other_documents is 'all'"),
        ({"document_query": "yes"}, "objective.document_query is 'yes'"),
        ({"matryoshka_mask": "all"}, "objective.matryoshka_mask is 'all'"),
        ({"in_batch": ["query_document", "qq"]}, "objective.in_batch names 'qq'"),
        ({"matryoshka_dimensions": [64, 32]}, "the shortest first"),
        ({"matryoshka_dimensions": [0, 32]}, "lengths above 0"),
        ({"matryoshka_dimensions": [32, 64], "matryoshka_weights": [1]}, "has 1 entries"),
        ({"matryoshka_weights": [1]}, "has 1 entries"),
        ({"matryoshka_dimensions": [32], "matryoshka_weights": [-1]}, "no weight may be below 0"),
        ({"matryoshka_dimensions": [32], "matryoshka_weights": [0]}, "not all 0"),
        ({"per_task": {"sts": {"temperature": -1}}}, "objective.per_task.sts: objective.temperature is -1"),
        ({"per_task": {"sts": {"tau": 1}}}, "objective.per_task.sts: objective.tau is not a field"),
        (
            {"learnable_temperature": True, "per_task": {"sts": {"temperature": 0.1}}},
            "objective.per_task.sts.temperature: this is one value for all tasks",
        ),
    ],
)
def test_a_wrong_objective_is_named(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective_from(config)


def test_the_default_preset_is_the_paper() -> None:
    assert objective_from({}) == objective_from({"preset": "paper"}) == Objective()
    assert objective_from({"temperature": 0.01}) == Objective(temperature=0.01)


def test_lists_of_a_recipe_become_tuples() -> None:
    assert objective_from({"in_batch": ["query_query"], "matryoshka_dimensions": [8, 16]}) == Objective(
        in_batch=("query_query",), matryoshka_dimensions=(8, 16)
    )


def test_a_task_changes_its_own_batches_alone() -> None:
    objective = objective_from(
        {"temperature": 0.05, "per_task": {"sts": {"in_batch": [], "threshold": None}}}
    )
    assert for_task(objective, "sts") == Objective(temperature=0.05, in_batch=(), threshold=None)
    assert for_task(objective, "retrieval") == Objective(temperature=0.05)


def test_the_preset_swift_is_one_cross_entropy_over_three_blocks() -> None:
    """Threshold on q-d and q-q, d-d unmasked and with the row's own hard negatives, no duplicate rule."""
    generator = torch.Generator().manual_seed(0)
    N, K, D, tau = 6, 2, 3, 0.05
    vectors = torch.randn(N * (2 + K), D, generator=generator, dtype=torch.float64)
    queries, positives, negatives = torch.nn.functional.normalize(vectors, dim=1).split([N, N, N * K])
    batch = ContrastiveBatch(
        query_BD=queries,
        positive_BD=positives,
        negative_MD=negatives,
        negative_row_M=torch.arange(N * K) // K,
        query_id_B=torch.zeros(N, dtype=torch.int64),  # all texts the same, for the rule that is off
        positive_id_B=torch.zeros(N, dtype=torch.int64),
        negative_id_M=torch.zeros(N * K, dtype=torch.int64),
        known_positive_BP=torch.zeros(N, 1, dtype=torch.int64),
    )
    documents = torch.cat([positives, negatives])
    target = torch.arange(N)
    limit = (queries * positives).sum(dim=1, keepdim=True) + 0.1
    qd = queries @ documents.T
    qd = qd.masked_fill(qd > limit, -torch.inf)
    qq = (queries @ queries.T).fill_diagonal_(-torch.inf)
    qq = qq.masked_fill(qq > limit, -torch.inf)
    dd = positives @ documents.T
    dd[target, target] = -torch.inf
    wanted = torch.nn.functional.cross_entropy(torch.cat([qd, qq, dd], dim=1) / tau, target)

    swift = replace(objective_from({"preset": "swift"}), temperature=tau)
    assert contrastive_loss(batch, swift).share.item() == pytest.approx(wanted.item(), rel=1e-12)
