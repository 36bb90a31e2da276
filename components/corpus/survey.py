"""What a source holds, found by reading it once: documents, a sample of them, queries, and which field holds what."""

import random
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from components.corpus import formats
from components.corpus.digests import digests
from components.corpus.known_items import PARTS, Part, take_out
from components.corpus.language import detect_languages, language_code
from components.corpus.words import normalise
from components.storage import Folder

SAMPLE = 1000
"""Documents that are looked at closely, drawn evenly."""
FIRST_ROWS = 50
"""Of a table, to see its fields."""
MAX_DOCUMENTS = 3
"""A title that more documents have is no query."""
LANGUAGE_SAMPLE, LANGUAGE_CHARACTERS = 300, 600
MOSTLY = 0.95
"""If fewer of the documents state their language, it is detected."""
USUAL_NAMES: dict[formats.Column, tuple[str, ...]] = {
    "id": ("doc_id", "docid", "uid", "uuid", "key", "url", "uri", "path"),
    "title": ("name", "heading", "headline", "subject", "question", "query"),
    "text": (
        "content", "contents", "body", "passage", "document", "page_content", "answer", "markdown", "abstract",
        "description", "article",
    ),
    "language": ("lang", "locale", "language_code"),
}  # fmt: skip
"""What others call the fields of a document, the likeliest first."""


@dataclass(frozen=True)
class Sampled:
    """A document of the sample."""

    title: str | None
    text: str


@dataclass
class Survey:
    """What a source holds.

    Attributes:
        columns: which field holds what, where it is not called so.
        files: how many of each kind are read. left_out: how many others lie in the folders.
        documents: how many; some may be too short to be kept.
        sample: at most SAMPLE of them.
        askable: of the sample, the share that gives a query of its own, by the part that would be the query.
        stated: documents by the language that they state.
        detected: of the sample, documents by language, where few state theirs; those that are too short or uncertain
            are left out.
        shared_ids: documents whose id stands for another text already.
        queries: with a known answer, by the split of the judgements.
    """

    columns: dict[formats.Column, str | None]
    files: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    sample: list[Sampled] = field(default_factory=list)
    askable: dict[Part, float] = field(default_factory=dict)
    stated: Counter[str] = field(default_factory=Counter)
    detected: Counter[str] = field(default_factory=Counter)
    shared_ids: int = 0
    queries: dict[str, int] = field(default_factory=dict)

    @property
    def titled(self) -> float:
        """Share of the sample that has a title."""
        return sum(document.title is not None for document in self.sample) / len(self.sample)


def survey(sources: list[str]) -> Survey:
    """Look at files and folders that `formats.find_files` reads.

    Raises:
        ValueError: there is nothing to read, or a row that cannot be read, in one sentence.
    """
    files = [file for source in sources for file in formats.find_files(source)]
    found = Survey(columns=find_columns(files))
    found.files = Counter(_suffix(file.name) for file in files if file.holds != "pages")
    draw = random.Random(0)
    id_N, content_N, title_N = array("q"), array("q"), array("q")
    for file in files:
        if file.holds not in ("documents", "pages"):
            continue
        read = formats.read_documents_of if file.holds == "documents" else formats.read_pages_of
        for raw in read(file, columns=found.columns):
            if file.holds == "pages":
                found.files[_suffix(raw.place)] += 1
            if not raw.text:
                continue
            found.documents += 1
            if raw.document_id is not None:
                content = f"{raw.title or ''}\x1f{raw.text}"
                for array_N, text in ((id_N, raw.document_id), (content_N, content)):
                    array_N.append(int(digests([text])[0]))
            if raw.title:
                title_N.append(int(digests([normalise(raw.title)])[0]))
            if raw.language:
                found.stated[language_code(raw.language)] += 1
            _keep(found, Sampled(raw.title, raw.text), draw)
    if not found.documents:
        raise ValueError(f"{', '.join(sources)}: no document in it; every file is empty")
    found.shared_ids = _shared_ids(np.array(id_N), np.array(content_N))
    found.askable = _askable(found.sample, np.array(title_N))
    if found.stated.total() < MOSTLY * found.documents:
        found.stated.clear()
        found.detected = _detected(found.sample)
    found.queries = _queries(files)
    found.left_out = _left_out(sources, found.files)
    return found


def find_columns(files: list[formats.File]) -> dict[formats.Column, str | None]:
    """Which field of the rows holds what, as far as it is not called so.

    Raises:
        ValueError: no field holds the text.
    """
    rows = [
        row
        for file in files
        if file.holds == "documents"
        for _, row in zip(range(FIRST_ROWS), (row for _, row in formats.read_rows_of(file)), strict=False)
    ]
    if not rows:
        return {}
    names = Counter(name for row in rows for name, value in row.items() if value is not None)
    found: dict[formats.Column, str | None] = {}
    for role, others in USUAL_NAMES.items():
        usual = formats.ID_FIELDS if role == "id" else (role,)
        if not any(name in names for name in usual):
            by_case = {name.casefold(): name for name in names}
            known = next((by_case[other] for other in (*usual, *others) if other in by_case), None)
            if known is not None:
                found[role] = known
    if "text" not in names and "text" not in found:
        lengths = {
            name: float(np.mean([len(row[name]) for row in rows if isinstance(row.get(name), str)] or [0]))
            for name in names
        }
        longest = max(lengths, key=lengths.__getitem__)
        if lengths[longest] < 40:
            raise ValueError(
                f"no field of the rows is a text: {', '.join(names)}; a document is a row with a field `text`"
            )
        found["text"] = longest
        found = {role: name for role, name in found.items() if role == "text" or name != longest}
    return found


def _suffix(name: str) -> str:
    """`.jsonl.gz` of a packed file."""
    path = PurePosixPath(name.lower())
    return path.with_suffix("").suffix + path.suffix if path.suffix == ".gz" else path.suffix


def _left_out(sources: list[str], read: Counter[str]) -> Counter[str]:
    """Files of the folders that are not read, by suffix; hidden ones do not count."""
    there = Counter(
        _suffix(name)
        for source in sources
        for name in Folder(source).files()
        if name and not any(part.startswith(".") for part in name.split("/"))
    )
    return there - read


def _keep(found: Survey, document: Sampled, draw: random.Random) -> None:
    """Reservoir sampling."""
    if len(found.sample) < SAMPLE:
        found.sample.append(document)
    elif (place := draw.randrange(found.documents)) < SAMPLE:
        found.sample[place] = document


def _shared_ids(id_N: np.ndarray, content_N: np.ndarray) -> int:
    _, first, number_N = np.unique(id_N, return_index=True, return_inverse=True)
    return int(np.count_nonzero(content_N != content_N[first[number_N]])) if len(id_N) else 0


def _askable(sample: list[Sampled], title_N: np.ndarray) -> dict[Part, float]:
    """Titles are counted among all documents, first sentences among the sample."""
    titles, times = np.unique(title_N, return_counts=True)
    common = {int(title) for title, count in zip(titles, times, strict=True) if count > MAX_DOCUMENTS}
    shares: dict[Part, float] = {}
    for part in PARTS:
        queries = Counter(
            normalise(query)
            for document in sample
            if (query := take_out({"title": document.title, "text": document.text}, part)[0])
        )
        if part == "title":
            rare = {
                query: count for query, count in queries.items() if int(digests([query])[0]) not in common
            }
        else:
            rare = {query: count for query, count in queries.items() if count <= MAX_DOCUMENTS}
        shares[part] = sum(rare.values()) / len(sample)
    return shares


def _detected(sample: list[Sampled]) -> Counter[str]:
    shown = [
        f"{document.title or ''}\n{document.text[:LANGUAGE_CHARACTERS]}" for document in sample
    ][:LANGUAGE_SAMPLE]  # fmt: skip
    return Counter(language for language in detect_languages(shown) if language)


def _queries(files: list[formats.File]) -> dict[str, int]:
    judged: dict[str, set[str]] = {}
    for file in files:
        if file.holds == "qrels":
            for judgement in formats.read_qrels_of(file):
                if judgement.score > 0:
                    judged.setdefault(judgement.split, set()).add(judgement.query_id)
    return {split: len(queries) for split, queries in judged.items()}
