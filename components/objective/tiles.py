"""The softmaxes of Eq. 1 over tiles of the score matrices: no tensor of size batch x batch is ever held.

Forward, the log-sum-exp of a row is streamed over its tiles. Backward computes every tile again and takes the
gradient from it at once. Both passes go over blocks of rows and, for each, over tiles of columns: queries,
positives and hard negatives in turn. So memory beyond the vectors and their gradients is that of a few tiles
and of a few numbers a row.

Shapes: N rows in the batch, M hard negatives, B own rows; R rows and T columns of a tile; P prefixes, S
softmaxes, D dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
from torch.autograd.function import once_differentiable

from components.objective.cosines import CosineGradients, PrefixCosines
from components.objective.masks import Identities, Kind, Side, cells, only_own_negatives, sides
from components.objective.objective import Objective

LEFT: dict[Side, Kind] = {"query": "query", "document": "positive"}


@dataclass(frozen=True)
class TileSize:
    """Rows and columns of a tile. Execution: it decides speed, and the last bits."""

    rows: int
    columns: int


def tile_size(device: torch.device) -> TileSize:
    """On a CPU a tile stays in its cache; on a GPU it is large enough to hide the launches."""
    return TileSize(512, 1024) if device.type == "cpu" else TileSize(2048, 4096)


@dataclass(frozen=True)
class Walk:
    """What the two passes go over.

    Attributes:
        first_row, rows: the rows of the batch whose loss is taken.
        dimensions: lengths of the prefixes, rising; the last one is the whole vector.
    """

    objective: Objective
    ids: Identities
    first_row: int
    rows: int
    dimensions: tuple[int, ...]
    tile: TileSize

    @property
    def num_softmaxes(self) -> int:
        return 2 if self.objective.document_query == "second_softmax" else 1

    def softmax(self, kind: Kind, side: Side) -> int:
        """Which softmax the cells of a side stand in."""
        return self.num_softmaxes - 1 if kind == "query" and side == "document" else 0


class Summary(NamedTuple):
    """What is reported of the rows, without gradient.

    Attributes:
        positive_B: s(q_i, d_i+) at the full dimension.
        hardest_B: the highest s(q_i, d) there of an unmasked document in Z_i; -inf where there is none.
        standing, kept: cells of the denominators but for the positive, before and after the masks.
    """

    positive_B: torch.Tensor
    hardest_B: torch.Tensor
    standing: torch.Tensor
    kept: torch.Tensor


def streamed_losses(
    query_ND: torch.Tensor,
    positive_ND: torch.Tensor,
    negative_MD: torch.Tensor,
    temperature: torch.Tensor,
    walk: Walk,
) -> tuple[torch.Tensor, Summary]:
    """-log(exp(s(q_i, d_i+)/tau) / Z_i) of the rows of `walk` for every prefix, [P, B], and their summary.

    With a second softmax the mean over the two. The dtype is that of `temperature`, which is float32, or
    float64 where the vectors are. The gradient reaches all vectors and the temperature; it is of first order
    only.
    """
    loss_PB, *summary = _StreamedLosses.apply(query_ND, positive_ND, negative_MD, temperature, walk)
    return loss_PB, Summary(*summary)


class _StreamedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_ND: torch.Tensor,
        positive_ND: torch.Tensor,
        negative_MD: torch.Tensor,
        temperature: torch.Tensor,
        walk: Walk,
    ) -> tuple[torch.Tensor, ...]:
        cosines = PrefixCosines(
            {"query": query_ND, "positive": positive_ND, "negative": negative_MD}, walk.dimensions
        )
        # log of the sum of e^((s - s+)/tau) over the cells so far
        rest_SPB = temperature.new_full((walk.num_softmaxes, len(walk.dimensions), walk.rows), float("-inf"))
        positive_B, hardest_B = temperature.new_full((2, walk.rows), float("-inf"))
        standing, kept = torch.zeros(2, dtype=torch.int64, device=temperature.device)
        for block, tiles in _tiles(cosines, walk):
            positive_B[block.own] = block.positive_PR[-1]
            for tile in tiles:
                exponent_PRT = (tile.cosine_PRT - block.positive_PR[:, :, None]).div_(temperature)
                exponent_PRT.masked_fill_(~tile.kept_PRT, float("-inf"))
                rest_PR = rest_SPB[walk.softmax(tile.kind, tile.side), :, block.own]
                rest_PR.copy_(rest_PR.logaddexp(exponent_PRT.logsumexp(dim=2)))
                if tile.side == "query" and tile.kind != "query":
                    top_R = block.positive_PR[-1] + temperature * exponent_PRT[-1].amax(dim=1)
                    hardest_B[block.own] = hardest_B[block.own].maximum(top_R)
                standing += tile.standing_RT.count_nonzero() * len(tile.kept_PRT)
                kept += tile.kept_PRT.count_nonzero()
        # log(Z / e^(s+/tau)) = log(1 + sum e^((s - s+)/tau)): exact also where the positive has all but won
        loss_SPB = rest_SPB.logaddexp(torch.zeros_like(rest_SPB))
        ctx.walk = walk
        ctx.save_for_backward(query_ND, positive_ND, negative_MD, temperature, loss_SPB)
        summary = Summary(positive_B, hardest_B, standing, kept)
        ctx.mark_non_differentiable(*summary)
        return loss_SPB.mean(dim=0), *summary

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_PB: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        walk: Walk = ctx.walk
        query_ND, positive_ND, negative_MD, temperature, loss_SPB = ctx.saved_tensors
        cosines = PrefixCosines(
            {"query": query_ND, "positive": positive_ND, "negative": negative_MD}, walk.dimensions
        )
        gradients = CosineGradients(cosines)
        temperature_gradient = torch.zeros_like(temperature) if ctx.needs_input_grad[3] else None
        for block, tiles in _tiles(cosines, walk):
            loss_SPR = loss_SPB[:, :, block.own]
            upstream_PR = upstream_PB[:, block.own] / (walk.num_softmaxes * temperature)
            for tile in tiles:
                exponent_PRT = (tile.cosine_PRT - block.positive_PR[:, :, None]).div_(temperature)
                loss_PR = loss_SPR[walk.softmax(tile.kind, tile.side)]
                # the cell's share of Z
                gradient_PRT = (exponent_PRT - loss_PR[:, :, None]).exp_()
                gradient_PRT.masked_fill_(~tile.kept_PRT, 0).mul_(upstream_PR[:, :, None])
                if temperature_gradient is not None:
                    temperature_gradient -= exponent_PRT.mul_(gradient_PRT).sum()
                gradients.add_tile(
                    LEFT[tile.side], block.rows, tile.kind, tile.columns, tile.cosine_PRT, gradient_PRT
                )
            # what all other cells have of Z is taken from the positive
            gradients.add_pairs(
                block.rows, block.positive_PR, (upstream_PR * torch.expm1(-loss_SPR)).sum(dim=0)
            )
        finished = gradients.finish()
        return finished["query"], finished["positive"], finished["negative"], temperature_gradient, None


class _Columns(NamedTuple):
    """Vectors of one kind, and the rows of the batch in whose denominators they may stand."""

    kind: Kind
    where: slice
    rows: slice


class _Block(NamedTuple):
    """Rows: where in the batch, where among the own rows, and their cosines with their own positives."""

    rows: slice
    own: slice
    positive_PR: torch.Tensor


class _Tile(NamedTuple):
    """Cosines of one side of a block of rows with columns of one kind, and the cells of the denominator."""

    kind: Kind
    side: Side
    columns: slice
    cosine_PRT: torch.Tensor
    standing_RT: torch.Tensor
    kept_PRT: torch.Tensor


def _tiles(cosines: PrefixCosines, walk: Walk) -> Iterator[tuple[_Block, Iterator[_Tile]]]:
    """The blocks of rows, and for each its tiles, computed as they are asked for."""
    columns = _columns(walk)
    for rows in _pieces(walk.first_row, walk.first_row + walk.rows, walk.tile.rows):
        own = slice(rows.start - walk.first_row, rows.stop - walk.first_row)
        block = _Block(rows, own, cosines.pairs(rows))
        yield block, _tiles_of(block, columns, cosines, walk)


def _columns(walk: Walk) -> list[_Columns]:
    N, M = len(walk.ids.query_N), len(walk.ids.negative_M)
    found = []
    for kind in get_args(Kind):
        if not sides(walk.objective, kind):
            continue
        for where in _pieces(0, M if kind == "negative" else N, walk.tile.columns):
            rows = slice(0, N)
            if kind == "negative" and only_own_negatives(walk.objective):
                first, last = walk.ids.negative_row_M[where].aminmax()
                rows = slice(int(first), int(last) + 1)
            found.append(_Columns(kind, where, rows))
    return found


def _tiles_of(block: _Block, columns: list[_Columns], cosines: PrefixCosines, walk: Walk) -> Iterator[_Tile]:
    threshold = walk.objective.threshold
    limit_PR = block.positive_PR + (float("inf") if threshold is None else threshold)
    # the threshold looks at all prefixes, each at its own scores, or at the full dimension alone
    judging = slice(None) if walk.objective.matryoshka_mask == "prefix" else slice(-1, None)
    for kind, where, rows in columns:
        if rows.start >= block.rows.stop or rows.stop <= block.rows.start:
            continue
        cosine = {
            side: cosines.tile(LEFT[side], block.rows, kind, where) for side in sides(walk.objective, kind)
        }
        found = cells(
            walk.objective,
            walk.ids,
            kind,
            block.rows,
            where,
            {side: cosine_PRT[judging] for side, cosine_PRT in cosine.items()},
            limit_PR[judging],
        )
        for side, (standing_RT, kept_PRT) in found.items():
            yield _Tile(kind, side, where, cosine[side], standing_RT, kept_PRT)


def _pieces(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]
