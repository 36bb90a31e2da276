"""Cosines between prefixes of vectors, a tile at a time, and the gradients that come back through them.

All P prefixes come out of one pass over the dimensions: the product of a longer prefix is that of the one
before plus the dimensions between, and each is divided by the norms of its prefixes. So they cost what the
longest costs alone. The longest is the whole vector; it is taken as it is, for the vectors are normalised.

Shapes: C vectors of one kind with D dimensions; R rows and T columns of a tile; P prefixes, and Q = P - 1
where only the shorter ones are meant.
"""

from collections.abc import Mapping

import torch

from components.objective.masks import Kind

SMALLEST_NORM = 1e-12  # of a prefix, as in torch.nn.functional.normalize


class PrefixCosines:
    """Cosines between the queries, positives and hard negatives of a batch.

    Attributes:
        vectors: for each kind [C, D], normalised, of any floating dtype.
        dtype: of the cosines: float32, or float64 where the vectors are.
        segments: the dimensions that each prefix adds to the one before.
        inverse_norm_QC: for each kind, of the shorter prefixes.
    """

    def __init__(self, vectors: Mapping[Kind, torch.Tensor], dimensions: tuple[int, ...]) -> None:
        """`dimensions`: lengths of the prefixes, rising, the last one D."""
        self.vectors = vectors
        self.dtype = torch.promote_types(vectors["query"].dtype, torch.float32)
        self.segments = [slice(*ends) for ends in zip((0, *dimensions[:-1]), dimensions, strict=True)]
        self.inverse_norm_QC = {kind: self._inverse_norms(kind, dimensions[:-1]) for kind in vectors}

    def read(self, kind: Kind, where: slice) -> torch.Tensor:
        return self.vectors[kind][where].to(self.dtype)

    def tile(self, left: Kind, rows: slice, right: Kind, columns: slice) -> torch.Tensor:
        """[P, R, T]: the rows of one kind with the columns of another."""
        left_RD, right_TD = self.read(left, rows), self.read(right, columns)
        cosine_PRT = left_RD.new_empty(len(self.segments), len(left_RD), len(right_TD))
        torch.mm(left_RD[:, self.segments[0]], right_TD[:, self.segments[0]].T, out=cosine_PRT[0])
        for p, segment in enumerate(self.segments[1:], 1):
            torch.addmm(cosine_PRT[p - 1], left_RD[:, segment], right_TD[:, segment].T, out=cosine_PRT[p])
        cosine_PRT[:-1].mul_(self.inverse_norm_QC[left][:, rows, None])
        cosine_PRT[:-1].mul_(self.inverse_norm_QC[right][:, None, columns])
        return cosine_PRT

    def pairs(self, rows: slice) -> torch.Tensor:
        """[P, R]: every query with its own positive."""
        product_RD = self.read("query", rows) * self.read("positive", rows)
        parts = [product_RD[:, segment].sum(dim=1) for segment in self.segments]
        cosine_PR = torch.stack(parts).cumsum(dim=0)
        cosine_PR[:-1] *= self.inverse_norm_QC["query"][:, rows] * self.inverse_norm_QC["positive"][:, rows]
        return cosine_PR

    def _inverse_norms(self, kind: Kind, dimensions: tuple[int, ...]) -> torch.Tensor:
        vectors_CD = self.vectors[kind]
        norm_QC = vectors_CD.new_empty(len(dimensions), len(vectors_CD), dtype=self.dtype)
        for norm_C, dimension in zip(norm_QC, dimensions, strict=True):
            norm_C.copy_(torch.linalg.vector_norm(vectors_CD[:, :dimension], dim=1, dtype=self.dtype))
        return norm_QC.clamp_min_(SMALLEST_NORM).reciprocal_()


class CosineGradients:
    """Gradients at the vectors, summed up from gradients at their cosines.

    Attributes:
        vectors: for each kind [C, D], so far.
        radial_QC: for each kind the sum of gradient x cosine over the cosines that a vector has part in:
            what its norms owe, paid at the end (`finish`).
    """

    def __init__(self, cosines: PrefixCosines) -> None:
        self.cosines = cosines
        self.vectors = {
            kind: torch.zeros_like(vectors_CD, dtype=cosines.dtype)
            for kind, vectors_CD in cosines.vectors.items()
        }
        self.radial_QC = {
            kind: torch.zeros_like(norm_QC) for kind, norm_QC in cosines.inverse_norm_QC.items()
        }

    def add_tile(
        self,
        left: Kind,
        rows: slice,
        right: Kind,
        columns: slice,
        cosine_PRT: torch.Tensor,
        gradient_PRT: torch.Tensor,
    ) -> None:
        """Add what a tile's gradient gives; `gradient_PRT` is overwritten."""
        cosines = self.cosines
        radial_QRT = gradient_PRT[:-1] * cosine_PRT[:-1]
        self.radial_QC[left][:, rows] += radial_QRT.sum(dim=2)
        self.radial_QC[right][:, columns] += radial_QRT.sum(dim=1)
        gradient_PRT[:-1].mul_(cosines.inverse_norm_QC[left][:, rows, None])
        gradient_PRT[:-1].mul_(cosines.inverse_norm_QC[right][:, None, columns])
        left_RD, right_TD = cosines.read(left, rows), cosines.read(right, columns)
        for p, segment in reversed(list(enumerate(cosines.segments))):
            if p + 1 < len(cosines.segments):
                gradient_PRT[p] += gradient_PRT[p + 1]  # the longer prefixes hold these dimensions too
            self.vectors[left][rows, segment].addmm_(gradient_PRT[p], right_TD[:, segment])
            self.vectors[right][columns, segment].addmm_(gradient_PRT[p].T, left_RD[:, segment])

    def add_pairs(self, rows: slice, cosine_PR: torch.Tensor, gradient_PR: torch.Tensor) -> None:
        """The same for every query's cosine with its own positive."""
        cosines = self.cosines
        radial_QR = gradient_PR[:-1] * cosine_PR[:-1]
        self.radial_QC["query"][:, rows] += radial_QR
        self.radial_QC["positive"][:, rows] += radial_QR
        gradient_PR[:-1] *= cosines.inverse_norm_QC["query"][:, rows]
        gradient_PR[:-1] *= cosines.inverse_norm_QC["positive"][:, rows]
        reaching_PR = gradient_PR.flip(0).cumsum(dim=0).flip(0)
        query_RD, positive_RD = cosines.read("query", rows), cosines.read("positive", rows)
        for reaching_R, segment in zip(reaching_PR, cosines.segments, strict=True):
            self.vectors["query"][rows, segment] += reaching_R[:, None] * positive_RD[:, segment]
            self.vectors["positive"][rows, segment] += reaching_R[:, None] * query_RD[:, segment]

    def finish(self) -> dict[Kind, torch.Tensor]:
        """The gradients at the vectors, in the dtype of each. To be called once."""
        cosines, finished = self.cosines, {}
        for kind, gradient_CD in self.vectors.items():
            vectors_CD = cosines.vectors[kind]
            # d(1/|v|)/dv = -v/|v|^3, and 1/|v| stands in every cosine of that prefix
            owed_QC = self.radial_QC[kind] * cosines.inverse_norm_QC[kind].square()
            reaching_QC = owed_QC.flip(0).cumsum(dim=0).flip(0)
            for reaching_C, segment in zip(reaching_QC, cosines.segments[:-1], strict=True):
                gradient_CD[:, segment].addcmul_(
                    vectors_CD[:, segment].to(cosines.dtype), reaching_C[:, None], value=-1
                )
            finished[kind] = gradient_CD.to(vectors_CD.dtype)
        return finished
