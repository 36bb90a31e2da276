"""The pairs of a stage: those that a corpus holds already, and those that were written for it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from components.corpus.schema import DOCUMENTS, PAIRS, QRELS, QUERIES, conform, content_id, passage
from components.monitor import Monitor
from components.storage import Folder

KINDS = ("title_body", "labelled")


def collect_pairs(
    *,
    split: Folder,
    kinds: list[str],
    instruction: str | None,
    task: str,
    limit_per_kind: int | None,
    seed: int,
    output: Folder,
    monitor: Monitor,
    synthetic: Folder | None = None,
) -> dict[str, float]:
    """Write pairs.parquet from the training side of a split; `origin` of a pair is its kind.

    `title_body`: the title is the query, the text without the title its positive. `labelled`: a training
    query with each document that is judged relevant to it, as title and text. Rows are in the order of a
    seeded hash of their id, so a limit takes a sample that does not depend on the order of the input.

    Args:
        split: output of `split_documents`.
        kinds: of `KINDS`, in the order in which their pairs are written.
        instruction: for the query side; None: none.
        task: name under which a trainer batches these pairs together.
        limit_per_kind: at most so many pairs of each kind; None: all.
        synthetic: a folder with a pairs.parquet of its own, whose rows are added as they are.

    Returns:
        rows_in, rows_out, pairs_<origin> and rejected_<reason> (`empty`, `query_is_positive`, `repeated`,
        `over_limit`).

    Raises:
        ValueError: an unknown kind, or no pair is left.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"`kinds` is {kinds}; it names one or more of {', '.join(KINDS)}")
    train = split / "train"
    documents = conform(train.read_table("documents.parquet"), DOCUMENTS).to_pylist()
    pairs: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for kind in kinds:
        found = _title_body(documents) if kind == "title_body" else _labelled(documents, train)
        rows: list[dict[str, Any]] = [
            {
                "pair_id": content_id(kind, task, row["query"], row["positive"]),
                **row,
                "task": task,
                "instruction": instruction,
                "origin": kind,
            }
            for row in found
        ]
        # The last two keys make the order of equal pairs independent of the order of the input.
        rows.sort(
            key=lambda row: (content_id(str(seed), row["pair_id"]), row["positive_id"], row["query_id"])
        )
        seen: set[str] = set()
        for row in rows:
            if not row["query"].strip() or not row["positive"].strip():
                reason = "empty"
            elif row["query"].split() == row["positive"].split():
                reason = "query_is_positive"
            elif row["pair_id"] in seen:
                reason = "repeated"
            elif limit_per_kind is not None and len(seen) >= limit_per_kind:
                reason = "over_limit"
            else:
                seen.add(row["pair_id"])
                pairs.append(row)
                continue
            rejected.append({**row, "reason": reason})
    if synthetic is not None:
        pairs += conform(synthetic.read_table("pairs.parquet"), PAIRS).to_pylist()

    reasons = Counter(f"rejected_{row['reason']}" for row in rejected)
    if not pairs:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(reasons.items())) or "no row came in"
        raise ValueError(
            f"no pair of kind {', '.join(kinds)} is left of {len(documents)} training documents: {counts}"
        )
    output.write_table("pairs.parquet", conform(pa.Table.from_pylist(pairs, schema=PAIRS), PAIRS))
    if rejected:
        schema = pa.schema([*PAIRS, pa.field("reason", pa.string(), nullable=False)])
        output.write_table("rejected/pairs.parquet", pa.Table.from_pylist(rejected, schema=schema))
    origins = Counter(f"pairs_{row['origin']}" for row in pairs)
    numbers = {"rows_in": float(len(pairs) + len(rejected)), "rows_out": float(len(pairs))}
    numbers |= {name: float(count) for name, count in sorted((origins + reasons).items())}
    monitor.metrics(numbers)
    return numbers


def _title_body(documents: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    for document in documents:
        title = document["title"] or ""
        yield {
            "query": title,
            "positive": document["text"],
            "query_id": content_id(title),
            "positive_id": document["document_id"],
            "language": document["language"],
        }


def _labelled(documents: list[dict[str, Any]], train: Folder) -> Iterator[dict[str, str]]:
    by_id = {document["document_id"]: document for document in documents}
    queries = conform(train.read_table("queries.parquet"), QUERIES).to_pylist()
    text_of = {query["query_id"]: query["text"] for query in queries}
    for judgement in conform(train.read_table("qrels.parquet"), QRELS).to_pylist():
        document = by_id[judgement["document_id"]]
        yield {
            "query": text_of[judgement["query_id"]],
            "positive": passage(document["title"], document["text"]),
            "query_id": judgement["query_id"],
            "positive_id": document["document_id"],
            "language": document["language"],
        }
