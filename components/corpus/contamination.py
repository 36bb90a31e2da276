"""Take out what overlaps an evaluation set: documents, labelled queries, training pairs.

Word n-grams as in GPT-3 (Brown et al. 2020, appendix C: 13-grams), with the share of them that two texts must have in
common; texts that are shorter than an n-gram are compared whole, word by word.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from components.corpus import formats, readers
from components.corpus.overlap import Overlap, OverlapIndex, OverlapIndexBuilder
from components.corpus.rewriting import Rewritten, rejected_rows, rewrite_documents, rewrite_pairs
from components.corpus.schema import QUERIES, conform, passage
from components.corpus.tables import has_table, read_batches
from components.corpus.words import words
from components.monitor import Monitor
from components.storage import Folder

Part = Literal["queries", "relevant", "corpus"]
"""Of an evaluation set: its queries, the documents that are relevant to one, or every document."""


def remove_contaminated_documents(
    *,
    documents: Folder,
    ngram: int,
    share: float,
    parts: Sequence[Part],
    output: Folder,
    monitor: Monitor,
    split: Folder | None = None,
    evaluation_sets: Sequence[str] = (),
    num_workers: int = 2,
) -> dict[str, float]:
    """Keep the documents, and the labelled queries beside them, that overlap no evaluation set.

    Two texts of at least `ngram` words overlap if they share `share` of the distinct word n-grams of the one that has
    fewer; shorter ones if their words are the same (NFKC, lower case, whatever stands between). A document is
    title and text. The reason names the evaluation set, the detail the first n-gram that is shared.

    Args:
        documents: folder with documents.parquet, and queries.parquet and qrels.parquet if it has any.
        ngram: words; 13 is GPT-3's.
        share: in (0, 1]; a tiny one lets a single common n-gram decide.
        parts: of each evaluation set, what is compared with. With "corpus" a set that is judged on the documents
            themselves takes all of them out.
        split: output of `split_documents`; its evaluation side is the set `evaluation`.
        evaluation_sets: BEIR folders, by path or URI, `#SPLIT` behind it for the queries of one split.
        num_workers: a CPU each. All n-grams of the sets are held, 12 bytes each.

    Returns:
        rows_in, rows_out, rejected_overlap_<set> (the first set that a row overlaps), overlapping_<set> (documents)
        and overlapping_queries_<set> of every set, rows_per_second; queries and qrels as in `carry_judgements`.

    Raises:
        ValueError: no evaluation set, one that is not as it should be, or a setting out of range.
    """
    index = _index(split, evaluation_sets, parts, ngram, share)

    def rewrite(batch: pa.Table) -> Rewritten:
        columns = (batch[name].to_pylist() for name in ("title", "text"))
        found = [
            index.overlaps(_renderings(title, text, ngram), share)
            for title, text in zip(*columns, strict=True)
        ]
        return _without(batch, found, "document_id")

    refused: dict[str, tuple[str, str]] = {}
    counts = Counter({f"overlapping_queries_{name}": 0 for name in index.names})
    if has_table(documents, "queries.parquet"):
        for rows in read_batches(documents, "queries.parquet"):
            batch = conform(rows, QUERIES)
            for query_id, text in zip(*(batch[name].to_pylist() for name in QUERIES.names), strict=True):
                if overlaps := index.overlaps([text], share):
                    refused[query_id] = _reason(overlaps), _detail(overlaps)
                    counts.update(f"overlapping_queries_{each.evaluation_set}" for each in overlaps)
    numbers = rewrite_documents(
        documents, output, lambda: rewrite, num_workers, "remove contaminated documents", monitor, refused
    )
    numbers = _with_zeros(index, numbers) | {name: float(count) for name, count in counts.items()}
    monitor.metrics(numbers)
    return numbers


def remove_contaminated_pairs(
    *,
    pairs: Folder,
    ngram: int,
    share: float,
    parts: Sequence[Part],
    output: Folder,
    monitor: Monitor,
    split: Folder | None = None,
    evaluation_sets: Sequence[str] = (),
    num_workers: int = 2,
) -> dict[str, float]:
    """Keep the pairs of which neither query nor positive overlaps an evaluation set.

    Hard negatives are not looked at: to be pushed away from another query teaches no answer. Otherwise as
    `remove_contaminated_documents`.

    Args:
        pairs: folder with pairs.parquet.

    Returns:
        rows_in, rows_out, rejected_overlap_<set>, overlapping_<set>, rows_per_second.

    Raises:
        ValueError: as `remove_contaminated_documents`.
    """
    index = _index(split, evaluation_sets, parts, ngram, share)

    def rewrite(batch: pa.Table) -> Rewritten:
        columns = (batch[name].to_pylist() for name in ("query", "positive"))
        # A query has many pairs and a document some: each text is looked up once a batch.
        known: dict[str, list[Overlap]] = {}
        found = []
        for texts in zip(*columns, strict=True):
            for text in texts:
                if text not in known:
                    known[text] = index.overlaps([text], share)
            by_set = {each.evaluation_set: each for text in texts for each in known[text]}
            found.append([by_set[name] for name in index.names if name in by_set])
        return _without(batch, found, "pair_id")

    numbers = _with_zeros(
        index,
        rewrite_pairs(pairs, output, lambda: rewrite, num_workers, "remove contaminated pairs", monitor),
    )
    monitor.metrics(numbers)
    return numbers


def evaluation_digests(evaluation_sets: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each file of the BEIR folders that counts, by its name.

    Raises:
        ValueError: a folder is missing or malformed.
    """
    found: dict[str, str] = {}
    for source in evaluation_sets:
        uri, split = _parsed(source)
        wanted = {file.name for file in _beir_files(uri, split)}
        digests = readers.source_digests([uri])
        found |= {f"{_set_name(uri, split)}/{name}": digests[name] for name in sorted(wanted)}
    return found


def _index(
    split: Folder | None, evaluation_sets: Sequence[str], parts: Sequence[Part], ngram: int, share: float
) -> OverlapIndex:
    if ngram < 1:
        raise ValueError(f"`ngram` is {ngram}; it must be at least 1 word")
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share}; it must lie above 0 and at most at 1")
    known = ("queries", "relevant", "corpus")
    if not parts or set(parts) - set(known):
        raise ValueError(f"`parts` is {list(parts)}; it names one or more of {', '.join(known)}")
    sets: dict[str, Iterator[str]] = {}
    if split is not None:
        sets["evaluation"] = _texts_of_split(split, parts, ngram)
    for source in evaluation_sets:
        uri, of_split = _parsed(source)
        name = _set_name(uri, of_split)
        if name in sets:
            raise ValueError(f"two evaluation sets are called {name}; rename one of the folders")
        sets[name] = _texts_of_beir(uri, of_split, parts, ngram)
    if not sets:
        raise ValueError("no evaluation set to compare with; give a split or at least one BEIR folder")
    builder = OverlapIndexBuilder(ngram)
    for name, texts in sets.items():
        if not builder.add(name, texts):
            raise ValueError(f"evaluation set {name} has no text in its {' and '.join(parts)}")
    return builder.index()


def _renderings(title: str | None, text: str, ngram: int) -> Iterator[str]:
    """The texts that a document is compared as: with its title, and without where that is too short for n-grams."""
    yield passage(title, text)
    if title and len(words(text)) < ngram:
        yield text


def _texts_of_split(split: Folder, parts: Sequence[Part], ngram: int) -> Iterator[str]:
    side = split / "evaluation"
    if "queries" in parts:
        for batch in read_batches(side, "queries.parquet", ["text"]):
            yield from batch["text"].to_pylist()
    relevant = {
        document_id
        for batch in read_batches(side, "qrels.parquet", ["document_id"])
        for document_id in batch["document_id"].to_pylist()
    }
    for batch in read_batches(side, "documents.parquet", ["document_id", "title", "text"]):
        for row in batch.to_pylist():
            if "corpus" in parts or ("relevant" in parts and row["document_id"] in relevant):
                yield from _renderings(row["title"], row["text"], ngram)


def _texts_of_beir(uri: str, split: str | None, parts: Sequence[Part], ngram: int) -> Iterator[str]:
    files = _beir_files(uri, split)
    judgements = [
        judgement
        for file in files
        if file.holds == "qrels"
        for judgement in formats.read_qrels_of(file)
        if judgement.score > 0
    ]
    queries = {judgement.query_id for judgement in judgements}
    relevant = {judgement.document_id for judgement in judgements}
    for file in files:
        if file.holds == "queries" and "queries" in parts:
            yield from (text for _, query_id, text in formats.read_queries_of(file) if query_id in queries)
        elif file.holds == "documents" and {"relevant", "corpus"} & set(parts):
            for document in formats.read_documents_of(file):
                if "corpus" in parts or document.document_id in relevant:
                    yield from _renderings(document.title, document.text, ngram)


def _parsed(source: str) -> tuple[str, str | None]:
    uri, _, split = source.partition("#")
    return uri, split or None


def _set_name(uri: str, split: str | None) -> str:
    stem = uri.rstrip("/").rsplit("/", 1)[-1]
    return f"{stem}.{split}" if split else stem


def _beir_files(uri: str, split: str | None) -> list[formats.File]:
    files = formats.find_files(uri)
    splits = [file.name.rsplit("/", 1)[-1].removesuffix(".tsv") for file in files if file.holds == "qrels"]
    if not splits:
        raise ValueError(
            f"evaluation set {uri} is no BEIR folder (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv)"
        )
    if split is not None and split not in splits:
        raise ValueError(f"evaluation set {uri} has no split `{split}`; there is {', '.join(splits)}")
    return [
        file
        for file in files
        if file.holds != "qrels" or split is None or file.name.endswith(f"/{split}.tsv")
    ]


def _without(batch: pa.Table, found: Sequence[Sequence[Overlap]], id_column: str) -> Rewritten:
    overlapping = pa.array([bool(overlaps) for overlaps in found], pa.bool_())
    rejected = batch.filter(overlapping)
    reported = [overlaps for overlaps in found if overlaps]
    return Rewritten(
        kept=batch.filter(pa.array([not overlaps for overlaps in found], pa.bool_())),
        rejected=rejected_rows(rejected, [*map(_reason, reported)], [*map(_detail, reported)]),
        moved={row_id: [] for row_id in rejected[id_column].to_pylist()},
        counts=Counter(f"overlapping_{each.evaluation_set}" for overlaps in reported for each in overlaps),
    )


def _reason(overlaps: Sequence[Overlap]) -> str:
    return f"overlap_{overlaps[0].evaluation_set}"


def _detail(overlaps: Iterable[Overlap]) -> str:
    return "; ".join(f"{each.evaluation_set} {each.share:.2f}: {each.words}" for each in overlaps)


def _with_zeros(index: OverlapIndex, numbers: Mapping[str, float]) -> dict[str, float]:
    """A set that nothing overlaps is reported, too."""
    return {f"overlapping_{name}": 0.0 for name in index.names} | dict(numbers)
