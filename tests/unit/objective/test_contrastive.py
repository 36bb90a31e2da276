"""Eq. 1 against a float64 oracle that walks over (i, j) straight from the formula."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.objective.contrastive import ContrastiveBatch, Objective, objective_from, row_losses
from components.objective.distributed import contrastive_loss

ROUNDING = 1e-13  # of the oracle itself: it takes 1 - p where p is the positive's share, all but 1


class AtThresholdError(Exception):
    """A score lies so near a mask's threshold that rounding decides."""


def oracle_loss(batch: ContrastiveBatch, objective: Objective) -> torch.Tensor:
    """Mean over i of -log(exp(s(q_i, d_i+)/tau) / Z_i), Z_i summed up term by term."""
    tau = objective.temperature
    q, p, n = batch.query_BD, batch.positive_BD, batch.negative_MD
    rows = range(len(q))
    owner, negative_id = batch.negative_row_M.tolist(), batch.negative_id_M.tolist()
    query_id, positive_id = batch.query_id_B.tolist(), batch.positive_id_B.tolist()
    total = torch.zeros((), dtype=torch.float64)
    for i in rows:
        positive = q[i] @ p[i]
        answers = {positive_id[i], *batch.known_positive_BP[i].tolist()} - {-1}

        def trips(score: torch.Tensor, positive: torch.Tensor = positive) -> bool:
            margin = (score - positive).item() - objective.threshold
            if abs(margin) < 1e-5:
                raise AtThresholdError
            return margin > 0

        def duplicate(document_id: int, answers: set = answers) -> bool:
            return objective.mask_duplicates and document_id in answers

        terms = [positive]
        for k in range(len(n)):  # own hard negatives
            if owner[k] == i:
                masked = duplicate(negative_id[k])
                if objective.threshold_own_negatives:
                    masked = trips(q[i] @ n[k]) or masked
                if not masked:
                    terms.append(q[i] @ n[k])
        others = [(p[j], positive_id[j]) for j in rows if j != i]
        if objective.other_documents == "positives_and_negatives":
            others += [(n[k], negative_id[k]) for k in range(len(n)) if owner[k] != i]
        for document, document_id in others:
            above = trips(q[i] @ document)
            if not above and not duplicate(document_id):  # query - document
                terms.append(q[i] @ document)
            above = {
                "by_qd": lambda above=above: above,
                "by_dd": lambda document=document: trips(p[i] @ document),  # noqa: B023
                "none": lambda: False,
            }[objective.masked_document_document]()
            if not above and not duplicate(document_id):  # document - document
                terms.append(p[i] @ document)
        for j in rows:  # query - query
            if j != i:
                same = objective.mask_duplicates and query_id[j] == query_id[i]
                if not trips(q[i] @ q[j]) and not same and not duplicate(positive_id[j]):
                    terms.append(q[i] @ q[j])
        # exp(1/0.01) still fits in float64
        z = sum(torch.exp(term / tau) for term in terms)
        total = total - torch.log(torch.exp(positive / tau) / z)
    return total / len(q)


objectives = st.builds(
    Objective,
    temperature=st.sampled_from([0.01, 0.02, 0.05, 0.3, 1.0]),
    threshold=st.sampled_from([0.1, 0.0, 0.3]),
    masked_document_document=st.sampled_from(["by_qd", "by_dd", "none"]),
    other_documents=st.sampled_from(["positives_and_negatives", "positives"]),
    mask_duplicates=st.booleans(),
    threshold_own_negatives=st.booleans(),
)


@st.composite
def batches(draw: st.DrawFn) -> ContrastiveBatch:
    """Vectors around one direction: scores on both sides of the threshold. Few ids: they meet."""
    rows = draw(st.integers(1, 6))
    D = draw(st.sampled_from([2, 3, 8]))
    counts = draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    owner = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    known = draw(st.integers(0, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.3, 1.0, 3.0]))
    centre = torch.randn(D, generator=generator, dtype=torch.float64)

    def vectors(count: int) -> torch.Tensor:
        noise = torch.randn(count, D, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(centre + spread * noise, dim=1)

    def ids(*shape: int, low: int = 0) -> torch.Tensor:
        return torch.randint(low, 8, shape, generator=generator)

    batch = ContrastiveBatch(
        query_BD=vectors(rows),
        positive_BD=vectors(rows),
        negative_MD=vectors(len(owner)),
        negative_row_M=owner[torch.randperm(len(owner), generator=generator)],
        query_id_B=ids(rows),
        positive_id_B=ids(rows),
        negative_id_M=ids(len(owner)),
        known_positive_BP=ids(rows, known, low=-1),
    )
    assume(rows > 1 or len(owner) > 0)
    return batch


def value_and_gradients(
    function, batch: ContrastiveBatch, dtype: torch.dtype
) -> tuple[float, list[torch.Tensor]]:
    leaves = [
        vectors.to(dtype).detach().requires_grad_()
        for vectors in (batch.query_BD, batch.positive_BD, batch.negative_MD)
    ]
    loss = function(replace(batch, query_BD=leaves[0], positive_BD=leaves[1], negative_MD=leaves[2]))
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return loss.item(), [gradient.to(torch.float64) for gradient in gradients]


@settings(max_examples=150, deadline=None)
@given(batch=batches(), objective=objectives)
def test_value_and_gradients_equal_the_oracle(batch: ContrastiveBatch, objective: Objective) -> None:
    # the float32 vectors are the ones compared, so the oracle gets them as they are rounded
    rounded = replace(
        batch,
        query_BD=batch.query_BD.float().double(),
        positive_BD=batch.positive_BD.float().double(),
        negative_MD=batch.negative_MD.float().double(),
    )
    for dtype, vectors, tolerance in (
        (torch.float64, batch, 1e-10),
        (torch.float32, rounded, 1e-6 * max(1.0, 1 / objective.temperature)),
    ):
        try:
            expected, expected_gradients = value_and_gradients(
                lambda b: oracle_loss(b, objective), vectors, torch.float64
            )
        except AtThresholdError:
            assume(False)
        value, gradients = value_and_gradients(lambda b: contrastive_loss(b, objective).share, vectors, dtype)
        assert abs(value - expected) <= tolerance * max(1.0, abs(expected))
        scale = max(float(g.abs().max()) for g in expected_gradients if g.numel())
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert torch.allclose(gradient, expected_gradient, rtol=0, atol=tolerance * scale + ROUNDING)


def unit(*angles: float) -> torch.Tensor:
    """Vectors in the plane by angle in degrees: their cosines are known in closed form."""
    radians = torch.tensor(angles, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1)


def two_rows(**changes) -> ContrastiveBatch:
    batch = ContrastiveBatch(
        query_BD=unit(0, 90),
        positive_BD=unit(10, 70),
        negative_MD=unit(60),
        negative_row_M=torch.tensor([0]),
        query_id_B=torch.tensor([0, 1]),
        positive_id_B=torch.tensor([10, 11]),
        negative_id_M=torch.tensor([12]),
        known_positive_BP=torch.empty(2, 0, dtype=torch.int64),
    )
    return replace(batch, **changes)


def test_by_hand() -> None:
    """Two rows in the plane; every term of Z written down."""

    def e(degrees: float) -> float:
        return math.exp(math.cos(math.radians(degrees)) / 0.5)

    z0 = e(10) + e(60) + e(90) + e(60) + e(70)  # positive, own negative, q-q, d-d, q-d
    # row 1: positive at 20 degrees; d-d to the other positive (60) and its negative (10), q-d (80) and (30)
    z1 = e(20) + e(90) + e(60) + e(10) + e(80) + e(30)
    expected = -(math.log(e(10) / z0) + math.log(e(20) / z1)) / 2
    result = contrastive_loss(two_rows(), Objective(temperature=0.5))
    assert result.share.item() == pytest.approx(expected, abs=1e-12)
    assert result.statistics["positive_cosine"] == pytest.approx(
        (math.cos(math.radians(10)) + math.cos(math.radians(20))) / 2
    )
    assert result.statistics["hardest_negative_cosine"] == pytest.approx(
        (0.5 + math.cos(math.radians(30))) / 2
    )
    assert result.statistics["masked_share"] == 0
    assert result.statistics["rows"] == 2


def test_no_gradient_flows_through_a_masked_cell_or_the_threshold() -> None:
    """The only rival scores above the threshold: the row's loss is 0 and nothing moves."""
    batch = two_rows(
        query_BD=unit(0),
        positive_BD=unit(60),
        negative_MD=unit(5).requires_grad_(),
        query_id_B=torch.tensor([0]),
        positive_id_B=torch.tensor([10]),
        known_positive_BP=torch.empty(1, 0, dtype=torch.int64),
    )
    query = batch.query_BD.requires_grad_()
    loss = contrastive_loss(batch, Objective())
    loss.share.backward()
    assert loss.share.item() == 0
    assert loss.statistics["masked_share"] == 1
    assert batch.negative_MD.grad is not None
    assert not batch.negative_MD.grad.any()
    assert query.grad is not None
    assert not query.grad.any()


def test_a_repeated_positive_is_masked_on_document_document() -> None:
    """Its cosine with d_i+ is 1: unmasked it would dominate Z."""
    batch = two_rows(positive_BD=unit(10, 10), query_BD=unit(0, 90), positive_id_B=torch.tensor([10, 10]))
    kept = row_losses(batch, Objective(mask_duplicates=False), 0, 2)
    masked = row_losses(batch, Objective(), 0, 2)
    assert masked.loss_B[0] < kept.loss_B[0]
    assert masked.masked_cells > kept.masked_cells


def test_rows_of_a_part_equal_the_rows_of_the_whole() -> None:
    batch = two_rows()
    whole = row_losses(batch, Objective(), 0, 2).loss_B
    parts = [row_losses(batch, Objective(), row, 1).loss_B[0] for row in range(2)]
    torch.testing.assert_close(torch.stack(parts), whole, rtol=0, atol=1e-12)


def test_half_precision_vectors_are_scored_in_float32() -> None:
    batch = two_rows(
        query_BD=unit(0, 90).bfloat16(), positive_BD=unit(10, 70).bfloat16(), negative_MD=unit(60).bfloat16()
    )
    assert contrastive_loss(batch, Objective()).share.dtype == torch.float32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"temperature": 0}, "objective.temperature is 0"),
        ({"tau": 0.1}, "objective.tau is not a field"),
        ({"preset": "papr"}, "objective.preset is 'papr'"),
        ({"masked_document_document": "qd"}, "objective.masked_document_document is 'qd'"),
        ({"other_documents": "all"}, "objective.other_documents is 'all'"),
    ],
)
def test_a_wrong_objective_is_named(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective_from(config)


def test_the_preset_is_the_paper() -> None:
    assert objective_from({}) == objective_from({"preset": "paper"}) == Objective()
    assert objective_from({"temperature": 0.01}) == Objective(temperature=0.01)


def test_options_of_the_table_differ() -> None:
    """Each reading gives another loss on a case made to tell them apart."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(
        torch.randn(26, 3, generator=generator, dtype=torch.float64), dim=1
    )
    batch = ContrastiveBatch(
        query_BD=vectors[:8],
        positive_BD=vectors[8:16],
        negative_MD=vectors[16:],
        negative_row_M=torch.arange(10) % 5,
        query_id_B=torch.arange(8) % 7,
        positive_id_B=torch.arange(8) % 6,
        negative_id_M=torch.arange(100, 110),
        known_positive_BP=torch.arange(100, 108)[:, None],
    )
    readings = [
        Objective(),
        Objective(masked_document_document="by_dd"),
        Objective(masked_document_document="none"),
        Objective(other_documents="positives"),
        Objective(mask_duplicates=False),
        Objective(threshold_own_negatives=False),
        Objective(threshold=0.4),
    ]
    losses = [contrastive_loss(batch, reading).share.item() for reading in readings]
    for first, second in itertools.combinations(losses, 2):
        assert abs(first - second) > 1e-6
