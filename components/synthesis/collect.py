"""Answers in, pairs out: every finished row is judged, and stands in the pairs or among the rejected."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import Dataset

from components.corpus.digests import digests
from components.corpus.schema import PAIRS, PAIRS_FILE, REJECTED_FILE, content_id
from components.corpus.tables import TableWriter
from components.corpus.words import words
from components.storage import Folder
from components.synthesis.answers import ANSWERS, ID, answer_paths, arrow_filesystem
from components.synthesis.prompts import Prompts
from components.synthesis.validate import Judge
from components.synthesis.written import read_texts

ORIGIN = "synthetic"

_JUDGED = pa.schema([*ANSWERS, pa.field("reason", pa.string()), pa.field("query_digest", pa.int64())])
_REJECTED = pa.schema([*ANSWERS, pa.field("reason", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Provenance:
    """What every pair says of how it was made. `instructions`: by family, in place of the prompt file's."""

    llm: str
    prompt_version: str
    instructions: Mapping[str, str]


@dataclass(frozen=True)
class Collected:
    """Sums over all rows. `families`: pairs by family; `reasons`: rejected rows by reason."""

    families: Counter[str]
    reasons: Counter[str]
    input_tokens: int
    output_tokens: int


def collect(
    state: Folder, output: Folder, prompts: Prompts, longest_words: int, provenance: Provenance
) -> Collected:
    """Write pairs.parquet (PAIRS) and rejected/rejected.parquet (ANSWERS and `reason`), ordered by document id.

    Of equal queries of a family the first is kept, the others are `duplicate`. Rows are judged and sorted by Ray
    Data, out of core; here ten bytes a row are held, and one block of them.
    """
    judged = _judged(state, prompts, longest_words).materialize()
    query_digests, repeated, wrong = [], [], []
    last = None
    for block in _blocks(judged):
        ids = block.column(ID).to_pylist()
        repeated.append(np.array([key == before for key, before in pairwise([last, *ids])], dtype=bool))
        query_digests.append(block.column("query_digest").to_numpy())
        wrong.append(np.array(block.column("reason").is_valid()))
        last = ids[-1] if ids else last
    repeated_N = np.concatenate(repeated)
    duplicate_N = _later_ones(np.concatenate(query_digests), ~np.concatenate(wrong) & ~repeated_N)

    families: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    start = 0
    with (
        TableWriter(output, PAIRS_FILE, PAIRS) as pairs,
        TableWriter(output, REJECTED_FILE, _REJECTED) as rejected,
    ):
        for block in _blocks(judged):
            kept: list[dict[str, Any]] = []
            turned_away: list[dict[str, Any]] = []
            for position, row in enumerate(block.to_pylist(), start):
                if repeated_N[position]:
                    continue
                for name in ("input_tokens", "output_tokens"):
                    tokens[name] += row[name]
                reason = row["reason"] or ("duplicate" if duplicate_N[position] else None)
                if reason:
                    reasons[reason] += 1
                    turned_away.append({**row, "reason": reason})
                else:
                    families[row["family"]] += 1
                    kept.append(_pair(row, prompts, provenance))
            start += block.num_rows
            pairs.write(pa.Table.from_pylist(kept, schema=PAIRS))
            rejected.write(pa.Table.from_pylist(turned_away, schema=_REJECTED))
    return Collected(families, reasons, tokens["input_tokens"], tokens["output_tokens"])


def _judged(state: Folder, prompts: Prompts, longest_words: int) -> Dataset:
    def judge(answers: pa.Table) -> pa.Table:
        judge = Judge(prompts, longest_words)
        rows = answers.to_pylist()
        reasons = [row["fault"] or judge.reason(row) for row in rows]
        keys = ["" if reason else _query_key(row) for row, reason in zip(rows, reasons, strict=True)]
        table = answers.append_column("reason", pa.array(reasons, pa.string()))
        return table.append_column("query_digest", pa.array(digests(keys))).cast(_JUDGED)

    rows = ray.data.read_parquet(answer_paths(state), filesystem=arrow_filesystem(state))
    return rows.map_batches(judge, batch_format="pyarrow").sort(ID)


def _blocks(dataset: Dataset) -> Iterator[pa.Table]:
    return iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def _later_ones(digest_N: np.ndarray, fair_N: np.ndarray) -> np.ndarray:
    """bool [N]: all but the fair rows whose query stands in no fair row before."""
    later_N = np.ones(len(digest_N), dtype=bool)
    fair_K = np.flatnonzero(fair_N)
    later_N[fair_K[np.unique(digest_N[fair_K], return_index=True)[1]]] = False
    return later_N


def _query_key(row: dict[str, Any]) -> str:
    """A query's words and its family."""
    return " ".join([row["family"], *words(read_texts(row).query)])


def _pair(row: dict[str, Any], prompts: Prompts, provenance: Provenance) -> dict[str, Any]:
    texts, family = read_texts(row), row["family"]
    query_id = content_id(texts.query)
    # A document keeps its id; what was written is known by its text, so that equal labels are one.
    positive_id = row[ID] if family == "retrieval" else content_id(texts.positive)
    return {
        "pair_id": content_id(ORIGIN, family, texts.query, positive_id),
        "query": texts.query,
        "positive": texts.positive,
        "query_id": query_id,
        "positive_id": positive_id,
        "negatives": texts.negatives or None,
        "negative_ids": [content_id(text) for text in texts.negatives] or None,
        "task": family,
        "instruction": provenance.instructions.get(family) or _instruction(row, prompts),
        "language": row["asked_language"] if family == "retrieval" else row["language"],
        "origin": ORIGIN,
        "persona": row["character"] or None,
        "question_type": row["question_type"] or None,
        "difficulty": row["difficulty"] or None,
        "llm": provenance.llm,
        "prompt_version": provenance.prompt_version,
        "seed": row["request_seed"],
    }


def _instruction(row: dict[str, Any], prompts: Prompts) -> str:
    match row["family"]:
        case "retrieval":
            return prompts.retrieval.instruction
        case "bitext_mining":
            return prompts.bitext_mining.instruction
        case "sts":
            return prompts.sts.instruction
        case _:
            return prompts.classification.aspects[row["question_type"]].instruction
