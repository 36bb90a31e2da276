"""The pairs of a stage: those that a corpus holds already, and those that other steps have made."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.schema import DOCUMENTS, QRELS, QUERIES, conform
from components.corpus.tables import count_rows, read_batches
from components.monitor import Monitor
from components.pairs.sources.judged import judged_rows
from components.pairs.sources.kinds import KINDS, Row, labelled, neighbours, same_text, title_body
from components.pairs.sources.write import Label, write_pairs
from components.pairs.table import PairWriter, read_pairs
from components.storage import Folder

OF_A_CORPUS = ("title_body", "labelled", "neighbours", "same_text")
"""The kinds that a corpus and its judgements hold."""

_DOCUMENT = pa.schema([DOCUMENTS.field(name) for name in ("document_id", "title", "text", "language")])
_ROWS_AT_ONCE = 8192


def collect_pairs(
    *,
    split: Folder,
    kinds: list[str],
    instruction: str | None,
    task: str,
    limit_per_kind: int | None,
    seed: int,
    passage_characters: int = 512,
    output: Folder,
    monitor: Monitor,
    **added: Folder,
) -> dict[str, float]:
    """Write pairs.parquet from the training side of a split; `origin` of a pair is its kind.

    `title_body`: the title is the query, the text without the title its positive. `labelled`: a training
    query with each document that is judged relevant to it, as title and text. `neighbours`: each passage of a
    document with the next one. `same_text`: each text with itself. Rows are in the order of a seeded hash of
    their id, so a limit takes a sample that does not depend on the order of the input.

    Args:
        split: output of `split_documents`.
        kinds: of `OF_A_CORPUS`, in the order in which their pairs are written; none: only what is added.
        instruction: for the query side; None: none.
        task: name under which a trainer batches these pairs together.
        limit_per_kind: at most so many pairs of each kind; None: all.
        passage_characters: of a passage, at most; for `neighbours`.
        added: folders with a pairs.parquet of their own (a file or a folder of files), whose rows are added as
            they are, in the order of the folders' names.

    Returns:
        rows_in, rows_out, pairs_<origin> and rejected_<reason> (`empty`, `query_is_positive`, `repeated`,
        `over_limit`, `one_passage`, and those of `judged_rows`).

    Raises:
        ValueError: an unknown kind, or no pair is left.
    """
    unknown = [kind for kind in kinds if kind not in OF_A_CORPUS]
    if unknown or not (kinds or added):
        raise ValueError(f"`kinds` is {kinds}; it names one or more of {', '.join(OF_A_CORPUS)}")
    train = split / "train"
    origins: Counter[str] = Counter()
    with PairWriter(output) as writer:
        for number, name in enumerate(kinds):
            label = Label(name, task, instruction, origin=name, language="")
            found = _find(name, train, passage_characters)
            origins[name] += write_pairs(found, KINDS[name], label, limit_per_kind, seed, writer)
            monitor.progress(number + 1, len(kinds) + len(added), "sources", pairs=writer.kept)
        for _, folder in sorted(added.items()):
            for piece in read_pairs(folder, _ROWS_AT_ONCE):
                writer.keep(piece)
                for counted in pc.value_counts(piece["origin"]).to_pylist():
                    origins[counted["values"]] += counted["counts"]
    numbers = writer.numbers()
    if not writer.kept:
        reasons = {name: int(count) for name, count in numbers.items() if name.startswith("rejected_")}
        counts = ", ".join(f"{count} {name}" for name, count in reasons.items()) or "no row came in"
        raise ValueError(
            f"no pair of kind {', '.join(kinds)} is left of {count_rows(train, 'documents.parquet')} training "
            f"documents: {counts}"
        )
    numbers |= {f"pairs_{name}": float(count) for name, count in sorted(origins.items()) if count}
    monitor.metrics(numbers)
    return numbers


def _find(kind: str, train: Folder, passage_characters: int) -> Iterator[Row]:
    documents = _documents(train)
    if kind == "title_body":
        return title_body(documents)
    if kind == "neighbours":
        return neighbours(documents, passage_characters=passage_characters)
    if kind == "same_text":
        return same_text(documents)
    qrels = conform(train.read_table("qrels.parquet"), QRELS)
    judgements = zip(*(qrels[name].to_pylist() for name in ("query_id", "document_id", "score")), strict=True)
    queries = conform(train.read_table("queries.parquet"), QUERIES)
    texts = dict(zip(queries["query_id"].to_pylist(), queries["text"].to_pylist(), strict=True))
    return labelled(judged_rows(documents, texts, judgements), min_score=None)


def _documents(train: Folder) -> Iterator[Row]:
    for batch in read_batches(train, "documents.parquet", _DOCUMENT.names):
        yield from conform(batch, _DOCUMENT).to_pylist()
