"""Cut long documents into pieces of so many tokens, where paragraphs and sentences end."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from components.corpus.rewriting import Rewritten, rejected_rows, rewrite_documents
from components.corpus.schema import DOCUMENTS, content_id, passage
from components.monitor import Monitor
from components.storage import Folder

# Where a text may be cut, the best places first: behind a paragraph, a sentence, a line, a word.
BOUNDARIES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n\s*\n\s*",
        r"(?<=[.!?…])[\"')\]”’]*\s+|(?<=[。！？])[”’」』）]*",
        r"\n\s*",
        r"\s+",
    )
)
LEAST_TOKENS = 16
"""Of a piece: below it special tokens and single characters would count."""
LOOK_AHEAD = 8
"""Characters a token; more where a window has fewer tokens than that."""


def chunk_documents(
    *,
    documents: Folder,
    model: Folder,
    max_tokens: int,
    overlap_tokens: int,
    output: Folder,
    monitor: Monitor,
    num_workers: int = 2,
) -> dict[str, float]:
    """Replace each document that is longer than `max_tokens` by its pieces; the others stay as they are.

    A piece ends behind the last paragraph of its second half; if none ends there, behind the last sentence, line,
    word, token. Together the pieces are the document: nothing but white space lies between them. Each has the
    document's title, and in its metadata `chunk_of` (the document's id), `chunk_number` (from 1), `chunk_count`,
    `chunk_start` and `chunk_end` (characters of the document's text). Its id is a hash of the document's id,
    of its place and of its text. What is judged relevant of a document is so of each of its pieces.

    Args:
        documents: folder with documents.parquet, and queries.parquet and qrels.parquet if it has any.
        model: folder with the tokenizer.json of the model that is to read the pieces.
        max_tokens: of title, space and text, with the tokenizer's special tokens; a template's tokens are to be left
            off by the caller.
        overlap_tokens: about so many tokens of a piece stand at the beginning of the next one, too.
        num_workers: a CPU each.

    Returns:
        rows_in, rows_out, documents_cut, pieces (of those), rejected_title_too_long (the title leaves less than half
        of `max_tokens`), rows_per_second; queries and qrels as in `carry_judgements`.

    Raises:
        ValueError: there is no tokenizer, or a length is out of range.
    """
    if max_tokens < LEAST_TOKENS:
        raise ValueError(f"`max_tokens` is {max_tokens}; it must be at least {LEAST_TOKENS}")
    if not 0 <= overlap_tokens <= max_tokens // 2:
        raise ValueError(
            f"`overlap_tokens` is {overlap_tokens}; it must lie between 0 and half of `max_tokens`, {max_tokens // 2}"
        )
    if not model.exists("tokenizer.json"):
        raise ValueError(f"{model.uri} holds no tokenizer.json to count tokens with")
    tokenizer = model.read("tokenizer.json").decode()
    Chunker(tokenizer, max_tokens, overlap_tokens)

    def prepare() -> Callable[[pa.Table], Rewritten]:
        chunker = Chunker(tokenizer, max_tokens, overlap_tokens)

        def rewrite(batch: pa.Table) -> Rewritten:
            kept: list[dict[str, Any]] = []
            too_long: list[int] = []
            moved: dict[str, list[str]] = {}
            for at, row in enumerate(batch.to_pylist(maps_as_pydicts="strict")):
                chunks = chunker(row["title"], row["text"])
                if chunks is None:
                    too_long.append(at)
                    moved[row["document_id"]] = []
                elif len(chunks) > 1:
                    pieces = _pieces(row, chunks)
                    kept += pieces
                    moved[row["document_id"]] = [piece["document_id"] for piece in pieces]
                else:
                    kept.append(row)
            cut = [pieces for pieces in moved.values() if pieces]
            rejected = batch.take(pa.array(too_long, pa.int64()))
            count = len(too_long)
            return Rewritten(
                kept=pa.Table.from_pylist(kept, schema=DOCUMENTS),
                rejected=rejected_rows(rejected, ["title_too_long"] * count, [None] * count),
                moved=moved,
                counts=Counter(documents_cut=len(cut), pieces=sum(map(len, cut))),
            )

        return rewrite

    numbers = rewrite_documents(documents, output, prepare, num_workers, "chunk documents", monitor)
    monitor.metrics(numbers)
    return numbers


@dataclass(frozen=True)
class Chunk:
    """Characters `start` to `end` of a text, which neither begin nor end with white space."""

    start: int
    end: int


class Chunker:
    """Cuts texts by a tokenizer's tokens.

    Args:
        tokenizer: a tokenizer.json.
        max_tokens, overlap_tokens: as in `chunk_documents`.

    Raises:
        ValueError: special tokens leave no room for text.
    """

    def __init__(self, tokenizer: str, max_tokens: int, overlap_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._overlap = overlap_tokens
        self._room = max_tokens - self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if self._room < LEAST_TOKENS // 2:
            raise ValueError(
                f"`max_tokens` is {max_tokens}; {max_tokens - self._room} of them are special tokens"
            )

    def __call__(self, title: str | None, text: str) -> list[Chunk] | None:
        """The pieces of a text, at most one if it need not be cut; None if the title leaves no room for them."""
        if len(text) <= self._room * LOOK_AHEAD and self._count(passage(title, text)) <= self._room:
            return [Chunk(0, len(text))]
        title_tokens = self._count(f"{title} ") if title else 0
        room = self._room - title_tokens
        if room < self._room // 2:
            return None
        chunks: list[Chunk] = []
        start = _skip_space(text, 0)
        while start < len(text):
            after = chunks[-1].end if chunks else 0
            end = self._end(title, text, start, after, room)
            if end <= after:  # the overlap left no room for anything new
                start = _skip_space(text, after)
                continue
            chunks.append(Chunk(start, end))
            following = _skip_space(text, end)
            start = following if following == len(text) else self._next_start(text, chunks[-1], following)
            start = _skip_space(text, start)
        return chunks

    def _end(self, title: str | None, text: str, start: int, after: int, room: int) -> int:
        """Where the piece that begins at `start` ends, beyond `after` if it can."""
        tokens = room
        while True:
            window, offsets = self._look_ahead(text, start, tokens)
            if len(offsets) <= tokens:
                end = start + len(window.rstrip())
            else:
                limit = max(1, offsets[tokens][0])
                cut = _last_boundary(window, max(limit // 2, after - start + 1), limit)
                end = start + len(window[:cut].rstrip())
            excess = self._count(passage(title, text[start:end])) - self._room
            # A cut may change how the tokens before it are read. A single character can be over-long.
            if excess <= 0 or tokens <= 1:
                return end
            tokens = max(1, min(tokens, len(offsets)) - excess)

    def _look_ahead(self, text: str, start: int, tokens: int) -> tuple[str, list[tuple[int, int]]]:
        """The text from `start`, as much as has more than so many tokens or all there is, and their places in it."""
        characters = tokens * LOOK_AHEAD
        while True:
            window = text[start : start + characters]
            offsets = self._offsets(window)
            if len(offsets) > tokens or start + characters >= len(text):
                return window, offsets
            characters *= 2

    def _next_start(self, text: str, chunk: Chunk, following: int) -> int:
        """Where the piece behind `chunk` begins: at a sentence or word of its last tokens, or behind it."""
        if not self._overlap:
            return following
        piece = text[chunk.start : chunk.end]
        offsets = self._offsets(piece)
        if len(offsets) <= self._overlap:
            return following
        earliest = max(1, offsets[-self._overlap][0])
        ends = (match.end() for boundary in BOUNDARIES for match in boundary.finditer(piece, earliest))
        return chunk.start + next((end for end in ends if end < len(piece)), earliest)

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))


def _last_boundary(window: str, least: int, limit: int) -> int:
    """Behind the last boundary of the best kind that lies between `least` and `limit`; `limit` if there is none."""
    for boundary in BOUNDARIES:
        ends = [match.end() for match in boundary.finditer(window, least, limit + 1)]
        if ends:
            return ends[-1]
    return limit


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _pieces(document: dict[str, Any], chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    pieces = []
    for number, chunk in enumerate(chunks, start=1):
        text = document["text"][chunk.start : chunk.end]
        place = {
            "chunk_of": document["document_id"],
            "chunk_number": str(number),
            "chunk_count": str(len(chunks)),
            "chunk_start": str(chunk.start),
            "chunk_end": str(chunk.end),
        }
        pieces.append(
            document
            | {
                "document_id": content_id(document["document_id"], str(chunk.start), text),
                "text": text,
                "metadata": (document["metadata"] or {}) | place,
            }
        )
    return pieces
