"""The contrastive loss against a float64 oracle that goes cell by cell from the formula, and by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from objective_oracle import VECTOR_DIMENSIONS, AtThresholdError, batches, expected, objectives

from components.objective.contrastive import ContrastiveBatch, row_losses
from components.objective.distributed import contrastive_loss
from components.objective.objective import Objective
from components.objective.tiles import TileSize

ROUNDING = 1e-14  # of the oracle itself: it takes 1 - p where p is the positive's share, all but 1
TILES = [None, TileSize(1, 1), TileSize(2, 3), TileSize(4, 2)]


def with_vectors(batch: ContrastiveBatch, vectors: list[torch.Tensor]) -> ContrastiveBatch:
    return replace(batch, query_BD=vectors[0], positive_BD=vectors[1], negative_MD=vectors[2])


def vectors_of(batch: ContrastiveBatch) -> list[torch.Tensor]:
    return [batch.query_BD, batch.positive_BD, batch.negative_MD]


def random_batch(rows: int, negatives: int, D: int) -> ContrastiveBatch:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(2 * rows + negatives, D, generator=generator, dtype=torch.float64)
    query_BD, positive_BD, negative_MD = torch.nn.functional.normalize(vectors, dim=1).split(
        [rows, rows, negatives]
    )
    return ContrastiveBatch(
        query_BD=query_BD,
        positive_BD=positive_BD,
        negative_MD=negative_MD,
        negative_row_M=torch.arange(negatives) % max(1, rows),
        query_id_B=torch.arange(rows) % max(1, rows - 1),
        positive_id_B=torch.arange(rows) % max(1, rows - 2),
        negative_id_M=torch.arange(100, 100 + negatives),
        known_positive_BP=torch.arange(100, 100 + rows)[:, None],
    )


@settings(max_examples=150)
@given(data=st.data(), D=st.sampled_from(VECTOR_DIMENSIONS), tile=st.sampled_from(TILES))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_gradients_and_statistics_equal_the_oracle(
    dtype: torch.dtype, data: st.DataObject, D: int, tile: TileSize | None
) -> None:
    batch, objective = data.draw(batches(D)), data.draw(objectives(D))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6 * max(1.0, 1 / objective.temperature)
    # the oracle gets the vectors as they are rounded
    leaves = [vectors.to(dtype).requires_grad_() for vectors in vectors_of(batch)]
    exact = [vectors.detach().double().requires_grad_() for vectors in leaves]
    temperature = torch.tensor(objective.temperature, dtype=dtype, requires_grad=True)
    exact_temperature = temperature.detach().double().requires_grad_()
    try:
        oracle = expected(with_vectors(batch, exact), objective, exact_temperature)
    except AtThresholdError:
        assume(False)
    result = contrastive_loss(with_vectors(batch, leaves), objective, temperature=temperature, tile=tile)

    wanted = oracle.loss.item()
    assert abs(result.share.item() - wanted) <= tolerance * abs(wanted) + ROUNDING
    wanted_gradients = torch.autograd.grad(
        oracle.loss, [*exact, exact_temperature], allow_unused=True, materialize_grads=True
    )
    gradients = torch.autograd.grad(result.share, [*leaves, temperature])
    scale = max(float(gradient.abs().max()) for gradient in wanted_gradients[:3] if gradient.numel())
    rounding = ROUNDING / objective.temperature
    for gradient, wanted_gradient in zip(gradients[:3], wanted_gradients[:3], strict=True):
        torch.testing.assert_close(
            gradient.double(), wanted_gradient, rtol=0, atol=tolerance * scale + rounding
        )
    # The temperature's is a sum of cosines by softmax shares, which cancel: it is as exact as the largest of its terms.
    terms = torch.finfo(dtype).eps / objective.temperature
    torch.testing.assert_close(
        gradients[3].double(),
        wanted_gradients[3],
        rtol=tolerance,
        atol=(tolerance * scale + rounding + terms) / objective.temperature,
    )

    seen = result.statistics
    assert seen["positive_cosine"] == pytest.approx(oracle.positive_cosine, abs=1e-6)
    hardest = sum(oracle.hardest) / len(oracle.hardest) if oracle.hardest else math.nan
    assert seen["hardest_negative_cosine"] == pytest.approx(hardest, rel=1e-5, abs=1e-6, nan_ok=True)
    assert seen["masked_share"] == pytest.approx(oracle.masked / oracle.cells if oracle.cells else 0)
    for dimension, loss in zip(objective.matryoshka_dimensions, oracle.by_dimension, strict=False):
        assert seen[f"loss_{dimension}"] == pytest.approx(loss, rel=10 * tolerance, abs=ROUNDING)


def test_gradients_equal_finite_differences() -> None:
    """Independent of the oracle: Matryoshka, both softmaxes, and the temperature."""
    batch = random_batch(rows=4, negatives=5, D=4)
    objective = Objective(
        document_query="second_softmax", matryoshka_dimensions=(2, 3, 4), matryoshka_weights=(1, 0.5, 2)
    )
    leaves = [vectors.clone().requires_grad_() for vectors in vectors_of(batch)]
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        *vectors, temperature = inputs
        filled = with_vectors(batch, vectors)
        return contrastive_loss(filled, objective, temperature=temperature, tile=TileSize(2, 3)).share

    assert torch.autograd.gradcheck(loss, (*leaves, temperature))


@pytest.mark.parametrize(
    "objective",
    [
        Objective(),
        Objective(document_query="second_softmax", matryoshka_dimensions=(8, 32)),
        Objective(in_batch=()),
    ],
)
def test_the_size_of_a_tile_changes_nothing_but_the_last_bits(objective: Objective) -> None:
    batch = random_batch(rows=40, negatives=90, D=32)
    leaves = [vectors.clone().requires_grad_() for vectors in vectors_of(batch)]
    results = []
    for tile in (TileSize(1000, 1000), TileSize(7, 11), TileSize(1, 64), TileSize(64, 1)):
        result = contrastive_loss(with_vectors(batch, leaves), objective, tile=tile)
        results.append((result.share.item(), result.statistics, torch.autograd.grad(result.share, leaves)))
    for share, statistics, gradients in results[1:]:
        assert share == pytest.approx(results[0][0], rel=1e-13)
        assert statistics == pytest.approx(results[0][1], rel=1e-13)
        for gradient, first in zip(gradients, results[0][2], strict=True):
            torch.testing.assert_close(gradient, first, rtol=1e-11, atol=1e-14)


def test_two_runs_are_the_same_bits() -> None:
    batch = random_batch(rows=40, negatives=90, D=32)
    leaves = [vectors.float().requires_grad_() for vectors in vectors_of(batch)]
    runs = []
    for _ in range(2):
        share = contrastive_loss(with_vectors(batch, leaves), Objective(), tile=TileSize(16, 16)).share
        runs.append([share, *torch.autograd.grad(share, leaves)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


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


def test_options_of_the_table_differ() -> None:
    """Each reading gives another loss on a case made to tell them apart."""
    batch = replace(random_batch(rows=8, negatives=10, D=3), negative_row_M=torch.arange(10) % 5)
    readings = [
        Objective(),
        Objective(masked_document_document="by_dd"),
        Objective(masked_document_document="none"),
        Objective(other_documents="positives"),
        Objective(own_negatives_in_document_document=True),
        Objective(mask_duplicates=False),
        Objective(threshold_own_negatives=False),
        Objective(threshold=0.4),
        Objective(threshold=None),
        Objective(in_batch=()),
        Objective(in_batch=("query_document",)),
        Objective(in_batch=("query_query",)),
        Objective(in_batch=("document_document",)),
        Objective(document_query="same_denominator"),
        Objective(document_query="second_softmax"),
        Objective(matryoshka_dimensions=(2, 3)),
        Objective(matryoshka_dimensions=(2, 3), matryoshka_mask="prefix"),
        Objective(matryoshka_dimensions=(2, 3), matryoshka_weights=(0.5, 1.0)),
    ]
    losses = [contrastive_loss(batch, replace(reading, temperature=0.1)).share.item() for reading in readings]
    for first, second in itertools.combinations(losses, 2):
        assert abs(first - second) > 1e-6


def test_one_row_without_hard_negatives_has_nothing_to_learn() -> None:
    batch = random_batch(rows=1, negatives=0, D=4)
    leaves = [vectors.clone().requires_grad_() for vectors in vectors_of(batch)]
    result = contrastive_loss(with_vectors(batch, leaves), Objective(document_query="second_softmax"))
    assert result.share.item() == 0
    assert math.isnan(result.statistics["hardest_negative_cosine"])
    assert result.statistics["masked_share"] == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(result.share, leaves))


def test_one_row_with_hard_negatives_is_a_softmax_over_them() -> None:
    batch = replace(random_batch(rows=1, negatives=3, D=4), known_positive_BP=torch.empty(1, 0, dtype=int))
    objective = Objective(temperature=0.5, threshold=None)
    scores = torch.cat([batch.positive_BD, batch.negative_MD]) @ batch.query_BD[0] / 0.5
    wanted = -torch.log_softmax(scores, dim=0)[0].item()
    assert contrastive_loss(batch, objective).share.item() == pytest.approx(wanted, rel=1e-12)


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows on any worker"):
        contrastive_loss(random_batch(rows=0, negatives=0, D=4), Objective())


def test_document_to_query_is_the_loss_with_the_sides_exchanged() -> None:
    """The mean of two cross-entropies over one score matrix, along its rows and its columns."""
    batch = replace(random_batch(rows=6, negatives=0, D=4), query_id_B=torch.arange(6))
    batch = replace(batch, positive_id_B=torch.arange(6))
    objective = Objective(
        temperature=0.2, in_batch=("query_document",), document_query="second_softmax", threshold=None
    )
    scores = batch.query_BD @ batch.positive_BD.T / 0.2
    target = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    wanted = (cross_entropy(scores, target) + cross_entropy(scores.T, target)) / 2
    assert contrastive_loss(batch, objective).share.item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_are_scored_in_float32(dtype: torch.dtype) -> None:
    batch = random_batch(rows=6, negatives=8, D=16)
    objective = Objective(matryoshka_dimensions=(4, 16))
    halves = [vectors.to(dtype).requires_grad_() for vectors in vectors_of(batch)]
    singles = [vectors.detach().float().requires_grad_() for vectors in halves]
    losses = [contrastive_loss(with_vectors(batch, each), objective).share for each in (halves, singles)]
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)
    for half, single in zip(
        torch.autograd.grad(losses[0], halves), torch.autograd.grad(losses[1], singles), strict=True
    ):
        assert torch.equal(half, single.to(dtype))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positive_BD": torch.zeros(2, 3)}, r"positive_BD .* has the shape \[2, 3\].* must be \[2, 2\]"),
        ({"negative_MD": torch.zeros(1, 3)}, "negative_MD"),
        ({"negative_row_M": torch.zeros(2, dtype=torch.int64)}, "negative_row_M"),
        ({"query_id_B": torch.zeros(3, dtype=torch.int64)}, "query_id_B"),
        ({"known_positive_BP": torch.zeros(3, 1, dtype=torch.int64)}, "known_positive_BP"),
    ],
)
def test_shapes_that_do_not_fit_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_rows(**changes)


def test_matryoshka_must_end_at_the_full_dimension() -> None:
    with pytest.raises(
        ValueError, match="ends at 1, the vectors have 2 dimensions; the last length must be 2"
    ):
        contrastive_loss(two_rows(), Objective(matryoshka_dimensions=(1,)))
