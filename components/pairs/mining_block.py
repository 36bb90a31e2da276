"""The last stage of mining, block by block: from the documents found to negatives, and what the audit needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.schema import PAIRS
from components.corpus.words import normalise, words
from components.model.embedder import Precision
from components.model.inference import inference_reranker
from components.model.reranker import Reranker
from components.pairs.arrays import read_arrays, write_arrays
from components.pairs.audit import CASE, SHOWN_CHARACTERS, BlockAudit, examine
from components.pairs.candidates import Candidates, Store, gather
from components.pairs.choice import FEW_WORDS, Rules, Test, choose
from components.pairs.filters.scores import check_numbers
from components.pairs.known import Known
from components.pairs.rounds import Outgrown
from components.pairs.vectors import cosines
from components.search.shards import Shards, TableShards
from components.storage import Folder

PAIRS_PER_BLOCK = 2048
"""Pairs whose negatives are chosen at once; of each some numbers for every document found are held."""
MINED = pa.schema([*PAIRS, pa.field("first_score", pa.float32())])
"""Pairs with their negatives, and the mean score of these when they were found."""


@dataclass(frozen=True)
class BlockPlan:
    """What must be known of a block of B pairs beside its texts, of Q queries. Fields as of `PairIndex` and
    `Known`, the numbers of queries counted within the block."""

    query_B: np.ndarray
    """int64, number of the pair's query within the block."""
    query_Q: np.ndarray
    """int64, number of the query among all."""
    positive_B: np.ndarray
    negative_J: np.ndarray
    negatives_B: np.ndarray
    first_score_B: np.ndarray
    """float32, mean score of the negatives that came with the pair when they were found; NaN: not recorded."""
    known_query_B: np.ndarray
    known_row_B: np.ndarray
    known_copy_B: np.ndarray
    known_query_R: np.ndarray
    known_reference_R: np.ndarray

    @property
    def known(self) -> Known:
        return Known(
            self.known_query_B,
            self.known_row_B,
            self.known_copy_B,
            self.known_query_R,
            self.known_reference_R,
        )


@dataclass(frozen=True)
class Blocks:
    """Blocks of pairs on their way through the last stage, a file of `pairs` each.

    Attributes:
        folder: of what is planned, mined and audited, by block.
        found: keys of the documents found for each query.
        outgrown: when negatives that came with the pairs are replaced; None: always.
    """

    folder: Folder
    pairs: TableShards
    found: Shards
    query_vectors: Shards
    store: Store
    rules: Rules
    outgrown: Outgrown | None

    def missing(self) -> list[int]:
        """Blocks that are not mined yet."""
        return self.mined.missing()

    @property
    def mined(self) -> TableShards:
        """MINED, written last: a block that is there is done."""
        return TableShards(self.folder / "pairs", self.pairs.rows, self.pairs.rows_per_shard)

    def write_plan(self, block: int, plan: BlockPlan) -> None:
        write_arrays(self.folder, f"plan-{block:06d}.npz", plan)

    def read_plan(self, block: int) -> BlockPlan:
        return read_arrays(self.folder, f"plan-{block:06d}.npz", BlockPlan)

    def write_audit(self, block: int, audit: BlockAudit) -> None:
        write_arrays(self.folder, f"audit-{block:06d}.npz", audit)

    def read_audit(self, block: int) -> BlockAudit:
        return read_arrays(self.folder, f"audit-{block:06d}.npz", BlockAudit)


class BlockMiner:
    """Chooses the negatives of one block after another.

    Args:
        reranker: directory of the model that may veto; None: none does.
        veto_margin: share of the positive's score by the reranker that a negative stays below.
    """

    def __init__(
        self,
        blocks: Blocks,
        reranker: Folder | None,
        veto_margin: float,
        precision: Precision,
        tokens_per_batch: int,
        device: str,
    ) -> None:
        self._blocks = blocks
        self._veto_margin, self._tokens_per_batch = veto_margin, tokens_per_batch
        self._reranker: Reranker | None = None
        if reranker is not None:
            with reranker.local() as directory:
                self._reranker = inference_reranker(directory, precision, device)

    def __call__(self, block: int) -> None:
        blocks, plan = self._blocks, self._blocks.read_plan(block)
        table = blocks.pairs.read(block)
        query_BD = blocks.query_vectors.take(plan.query_Q)[plan.query_B]
        keys_BK = blocks.found.take(plan.query_Q)[plan.query_B]
        candidates = gather(keys_BK, query_BD, plan.positive_B, plan.query_B, plan.known, blocks.store)
        mine_B, first_B, kept_scores = self._keep(plan, query_BD)

        rows = np.flatnonzero(mine_B)
        part = _of_rows(candidates, rows)
        passage_BK = _passages(part.row_BK, blocks.store)
        pair_ids = table["pair_id"].take(pa.array(rows)).to_pylist()
        tests: dict[str, Test] = {}
        if "near_copies" in blocks.rules.exclude:
            tests["near_copy"] = self._holds_positive(table, rows, part)
        if self._reranker:
            tests["veto"] = self._veto(table, rows, part)
        places, excluded = choose(part, pair_ids, passage_BK, blocks.rules, tests)
        chosen: list[np.ndarray] = [np.empty(0, np.int64)] * len(mine_B)
        for row, found in zip(rows.tolist(), places, strict=True):
            chosen[row] = found
            if len(found):
                first_B[row] = candidates.score_BK[row, found].mean()

        given = pc.list_value_length(table["negatives"].filter(pa.array(mine_B)))
        excluded["dropped"] = pc.sum(given).as_py() or 0
        kept_B = np.where(mine_B, 0, plan.negatives_B)
        audit, pair_C, place_C = examine(
            candidates, chosen, mine_B, kept_scores, kept_B, excluded, blocks.rules.negatives_per_query
        )
        blocks.write_audit(block, replace(audit, cases=self._cases(table, candidates, pair_C, place_C)))
        blocks.mined.write(block, self._mined(table, candidates, chosen, mine_B, first_B))

    def _keep(self, plan: BlockPlan, query_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which pairs are mined, the first scores of the others' negatives, and the present score of each."""
        first_B = np.full(len(plan.query_B), np.nan, dtype=np.float32)
        if self._blocks.outgrown is None or not len(plan.negative_J):
            return np.ones(len(first_B), dtype=bool), first_B, np.empty(0, np.float32)
        pair_J = np.repeat(np.arange(len(first_B)), plan.negatives_B)
        score_J = cosines(self._blocks.store.vectors(plan.negative_J), query_BD[pair_J])
        sum_B = np.bincount(pair_J, score_J, minlength=len(first_B))
        with np.errstate(invalid="ignore"):
            present_B = (sum_B / plan.negatives_B).astype(np.float32)
        known = np.concatenate(
            [
                _joined(plan.known_query_B, plan.known_row_B),
                _joined(plan.known_query_R, plan.known_reference_R),
            ]
        )
        is_known_J = np.isin(_joined(plan.query_B[pair_J], plan.negative_J), known)
        mine_B = (plan.negatives_B == 0) | self._blocks.outgrown(present_B, plan.first_score_B)
        mine_B |= np.bincount(pair_J, is_known_J, minlength=len(first_B)) > 0
        kept = ~mine_B
        first_B[kept] = np.where(np.isnan(plan.first_score_B), present_B, plan.first_score_B)[kept]
        return mine_B, first_B, score_J[kept[pair_J]]

    def _holds_positive(self, table: pa.Table, rows: np.ndarray, candidates: Candidates) -> Test:
        """Whether the positive stands in a candidate word for word: a page answers what a passage of it does."""
        positives = [normalise(text) for text in table["positive"].take(pa.array(rows)).to_pylist()]
        long_B = np.array([len(set(words(text))) >= FEW_WORDS for text in positives], dtype=bool)

        def holds(row_J: np.ndarray, place_J: np.ndarray) -> np.ndarray:
            found_J = long_B[row_J]
            asked = np.flatnonzero(found_J)
            texts = self._texts(candidates.row_BK[row_J[asked], place_J[asked]])["text"].to_pylist()
            found_J[asked] = [
                positives[row] in normalise(text)
                for row, text in zip(row_J[asked].tolist(), texts, strict=True)
            ]
            return found_J

        return holds

    def _veto(self, table: pa.Table, rows: np.ndarray, candidates: Candidates) -> Test:
        """Asks the reranker, which sees the query with the candidate and with the positive."""
        reranker = self._reranker
        assert reranker is not None
        columns = (
            table[name].take(pa.array(rows)).to_pylist() for name in ("query", "positive", "instruction")
        )
        queries, positives, instructions = columns

        def score(row_J: Sequence[int], texts: list[str]) -> np.ndarray:
            asked = [queries[row] for row in row_J]
            told = [instructions[row] for row in row_J]
            score_J = reranker.score(asked, texts, told, self._tokens_per_batch)
            return check_numbers(score_J, asked, "mine: the reranker")

        ceiling_B = self._veto_margin * score(range(len(queries)), positives)

        def veto(row_J: np.ndarray, place_J: np.ndarray) -> np.ndarray:
            texts = self._texts(candidates.row_BK[row_J, place_J])["text"].to_pylist()
            return score(row_J.tolist(), texts) >= ceiling_B[row_J]

        return veto

    def _mined(
        self,
        table: pa.Table,
        candidates: Candidates,
        chosen: list[np.ndarray],
        mine_B: np.ndarray,
        first_B: np.ndarray,
    ) -> pa.Table:
        """The pairs with their negatives, as MINED."""
        lengths = [len(places) for places in chosen]
        pair_J = np.repeat(np.arange(len(chosen)), lengths)
        found = self._texts(candidates.row_BK[pair_J, np.concatenate([*chosen, np.empty(0, np.int64)])])
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        columns = {
            "negatives": pa.ListArray.from_arrays(offsets, found["text"].combine_chunks()),
            "negative_ids": pa.ListArray.from_arrays(offsets, found["document_id"].combine_chunks()),
        }
        for name, new in columns.items():
            old = table[name].combine_chunks()
            columns[name] = pc.if_else(pa.array(mine_B), new, old)
        columns["measured"] = pa.array(candidates.positive_score_B)
        columns["first_score"] = pa.array(first_B, from_pandas=True)
        whole = [
            columns.get(name, table[name] if name in table.column_names else None) for name in MINED.names
        ]
        return pa.table(whole, schema=MINED)

    def _cases(
        self, table: pa.Table, candidates: Candidates, pair_C: np.ndarray, place_C: np.ndarray
    ) -> np.ndarray:
        """The texts and numbers of CASE, as texts [C, len(CASE)]."""
        negatives = self._texts(candidates.row_BK[pair_C, place_C])["text"].to_pylist()
        queries, positives = (
            table[name].take(pa.array(pair_C)).to_pylist() for name in ("query", "positive")
        )
        at = (pair_C, place_C)
        numbers = (
            candidates.positive_score_B[pair_C],
            candidates.score_BK[at],
            candidates.words_BK[at],
            candidates.cosine_BK[at],
        )
        rows = [
            [*(text[:SHOWN_CHARACTERS] for text in texts), *(f"{number:.4f}" for number in values)]
            for *texts, values in zip(queries, positives, negatives, zip(*numbers, strict=True), strict=True)
        ]
        return np.array(rows, dtype=np.str_).reshape(len(rows), len(CASE))

    def _texts(self, row_J: np.ndarray) -> pa.Table:
        return self._blocks.store.corpus_texts.take(row_J, ["document_id", "text"])


def _of_rows(candidates: Candidates, rows: np.ndarray) -> Candidates:
    return Candidates(**{name: value[rows] for name, value in vars(candidates).items()})


def _passages(row_BK: np.ndarray, store: Store) -> np.ndarray:
    """Hashes of the candidates' normalised passages, int64 [B, K]; 0 where there is no document."""
    row_U, number = np.unique(row_BK, return_inverse=True)
    there = row_U >= 0
    passage_U = np.zeros(len(row_U), dtype=np.int64)
    if there.any():
        passage_U[there] = store.corpus_profiles.take(row_U[there], ["passage"])["passage"].to_numpy()
    return passage_U[number].reshape(row_BK.shape)


def _joined(query_J: np.ndarray, reference_J: np.ndarray) -> np.ndarray:
    """One number for a query's number and a reference, which may be negative."""
    return (query_J << 33) + reference_J
