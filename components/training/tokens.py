"""Training pairs as token numbers: a piece of a pair table in, the same rows tokenised out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from components.corpus.schema import conform
from components.model.embedder import read_spec
from components.model.framing import Framer
from components.model.spec import EncodingSpec, Side
from components.model.tokens import load_tokenizer, plain
from components.training.identities import digest

TRAINED_ON = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("positive", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("positive_id", pa.string(), nullable=False),
        pa.field("negatives", pa.list_(pa.string())),
        pa.field("negative_ids", pa.list_(pa.string())),
        pa.field("task", pa.string(), nullable=False),
        pa.field("instruction", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
"""What training reads of a pair table."""

TOKENISED = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("query", pa.list_(pa.int32()), nullable=False),
        pa.field("positive", pa.list_(pa.int32()), nullable=False),
        pa.field("negatives", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("score", pa.float32()),
    ]
)
"""Token ids, template and end token included, and the score of query and positive where there is one."""


@dataclass(frozen=True)
class Digests:
    """What the rows are compared by: `identities.digest` of texts and of ids. R rows, M hard negatives.

    A query's text is its wording alone, whatever its instruction.
    """

    query_text_R: np.ndarray
    query_id_R: np.ndarray
    positive_text_R: np.ndarray
    positive_id_R: np.ndarray
    negative_text_M: np.ndarray
    negative_id_M: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["Digests"]) -> "Digests":
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class TokenisedPairs:
    """Rows of a pair table, tokenised.

    Attributes:
        rows: in the tokenizer's `schema`, the R rows that can be trained on.
        tasks: of each of them.
        tokens_R: int64, tokens of all texts of a row.
        negatives_R: int64, hard negatives of a row; M in all.
        rejected: the other rows as they came in, with a `reason`.
    """

    rows: pa.Table
    tasks: list[str]
    tokens_R: np.ndarray
    negatives_R: np.ndarray
    digests: Digests
    rejected: pa.Table


class Tokeniser(Protocol):
    """Tokenises pieces of a pair table.

    Attributes:
        reads: columns that it needs.
        schema: of the rows that it makes, `pair_id` and lists of token ids.
    """

    reads: pa.Schema
    schema: pa.Schema

    def __call__(self, table: pa.Table) -> TokenisedPairs: ...


class PairTokenizer:
    """Tokenises pairs as a model's EncodingSpec says.

    Args:
        model: model directory; its weights are not read.
        negatives_per_query: the first so many hard negatives of a row are taken; a row may have fewer.
        query_length, document_length: tokens of the longest text, end token included; None: the spec's.
        document_instructions: what documents of a task are told; of the others: the spec's.

    Raises:
        ValueError: a length above the positions of the backbone, or instructions that have no place in the
            document template.
    """

    reads = TRAINED_ON
    schema = TOKENISED

    def __init__(
        self,
        model: Path,
        negatives_per_query: int,
        query_length: int | None,
        document_length: int | None,
        document_instructions: Mapping[str, str] | None = None,
    ) -> None:
        self.spec: EncodingSpec = read_spec(model)
        self._document_instructions = document_instructions or {}
        if document_instructions and not self.spec.has_instruction("document"):
            raise ValueError(
                "document_instructions are given but document_template has no {instruction}; it is "
                f"{self.spec.document_template!r}"
            )
        self._frame = Framer(self.spec, load_tokenizer(model))
        self._negatives_per_query = negatives_per_query
        self._length: dict[Side, int] = {
            "query": query_length or self.spec.query_length,
            "document": document_length or self.spec.document_length,
        }
        longest = json.loads((model / "config.json").read_text()).get("max_position_embeddings")
        for side, length in self._length.items():
            if longest and length > longest:
                raise ValueError(f"{side}_length is {length}; the backbone has {longest} positions")
        self._bare: dict[tuple[Side, str | None], list[int]] = {}

    def __call__(self, table: pa.Table) -> TokenisedPairs:
        """Tokenise rows with the columns TRAINED_ON.

        A row with a text of which no token is left beside the template's is rejected (`empty_query`,
        `empty_positive`, `empty_negative`).

        Raises:
            ValueError: a column is missing, a row has more negatives than ids of them or fewer, or a template
                alone fills the length, so that nothing is left of any text.
        """
        table = conform(table, TRAINED_ON)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        negatives, negative_ids = first_negatives(columns, self._negatives_per_query)
        flat_negatives = [text for texts in negatives for text in texts]
        count = np.array([len(texts) for texts in negatives], dtype=np.int64)

        queries, query_empty = self._tokenise("query", columns["query"], columns["instruction"])
        rows = table.num_rows
        owner = np.repeat(np.arange(rows), count)
        told = [self._document_instructions.get(task) for task in columns["task"]]
        documents, document_empty = self._tokenise(
            "document", [*columns["positive"], *flat_negatives], [*told, *(told[row] for row in owner)]
        )
        positive_empty, negative_empty = np.split(document_empty, [rows])
        some_negative_empty = np.bincount(owner[negative_empty], minlength=rows) > 0
        reason = np.full(rows, "", dtype=object)
        reason[some_negative_empty] = "empty_negative"
        reason[positive_empty] = "empty_positive"
        reason[query_empty] = "empty_query"

        offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
        length = np.array([len(ids) for ids in documents], dtype=np.int64)
        tokens = np.array([len(ids) for ids in queries], dtype=np.int64) + length[:rows]
        tokens += np.bincount(owner, weights=length[rows:], minlength=rows).astype(np.int64)
        tokenised = pa.table(
            [
                table.column("pair_id"),
                token_lists(queries),
                token_lists(documents[:rows]),
                pa.ListArray.from_arrays(offsets, token_lists(documents[rows:])),
                table.column("score"),
            ],
            schema=TOKENISED,
        )
        kept, negative_kept = reason == "", (reason == "")[owner]
        digests = Digests(
            query_text_R=text_digests(columns["query"])[kept],
            query_id_R=text_digests(columns["query_id"])[kept],
            positive_text_R=text_digests(columns["positive"])[kept],
            positive_id_R=text_digests(columns["positive_id"])[kept],
            negative_text_M=text_digests(flat_negatives)[negative_kept],
            negative_id_M=text_digests([i for ids in negative_ids for i in ids])[negative_kept],
        )
        rejected = table.append_column("reason", pa.array(reason, pa.string())).filter(pa.array(~kept))
        return TokenisedPairs(
            rows=tokenised.filter(pa.array(kept)),
            tasks=[task for task, keep in zip(columns["task"], kept, strict=True) if keep],
            tokens_R=tokens[kept],
            negatives_R=count[kept],
            digests=digests,
            rejected=rejected,
        )

    def _tokenise(
        self, side: Side, texts: list[str], instructions: Sequence[str | None]
    ) -> tuple[list[list[int]], np.ndarray]:
        """Token ids of each text, and whether the template stands alone in them."""
        prefixes = {instruction: self.spec.prefix(side, instruction) for instruction in set(instructions)}
        bare = {instruction: self._bare_tokens(side, instruction) for instruction in prefixes}
        number: dict[tuple[str, str], int] = {}
        numbered = [
            number.setdefault((prefixes[instruction], text), len(number))
            for text, instruction in zip(texts, instructions, strict=True)
        ]
        distinct = self._frame(
            side, [prefix for prefix, _ in number], [text for _, text in number], self._length[side]
        )
        tokens = [distinct[n] for n in numbered]
        empty = [ids == bare[instruction] for ids, instruction in zip(tokens, instructions, strict=True)]
        return tokens, np.array(empty, dtype=bool)

    def _bare_tokens(self, side: Side, instruction: str | None) -> list[int]:
        """The template and the special tokens without a text."""
        if (side, instruction) not in self._bare:
            prefix, length = self.spec.prefix(side, instruction), self._length[side]
            (ids,) = self._frame(side, [prefix], [""], max(length, 1 << 20))
            template = prefix + self.spec.suffix(side)
            if template and len(ids) >= length:
                raise ValueError(
                    f"{side}_length {length} leaves no room for text: the template {template!r} alone takes "
                    f"{len(ids)} tokens"
                )
            self._bare[side, instruction] = ids
        return self._bare[side, instruction]


def first_negatives(columns: dict[str, list], most: int | None) -> tuple[list[list[str]], list[list[str]]]:
    """Texts and ids of the first hard negatives of each row; ids are "" where the table has none.

    Raises:
        ValueError: a row has more negatives than ids of them or fewer, or a null among them.
    """
    texts = [found or [] for found in columns["negatives"]]
    ids = [found or [""] * len(row) for row, found in zip(texts, columns["negative_ids"], strict=True)]
    for pair_id, row, found in zip(columns["pair_id"], texts, ids, strict=True):
        if len(row) != len(found):
            raise ValueError(
                f"pair {pair_id} has {len(row)} negatives but {len(found)} negative_ids; "
                "give each negative one id, or none at all"
            )
        if None in row:
            raise ValueError(f"pair {pair_id} has a null among its negatives; leave it out of the list")
    first = slice(most)
    return [row[first] for row in texts], [[name or "" for name in row[first]] for row in ids]


def encoding_digest(model: Path) -> str:
    """Of all that decides which tokens a text becomes, but for the lengths: tokenizer and templates."""
    spec = read_spec(model)
    parts = [spec.query_template, spec.document_template, spec.instruction, spec.end_token]
    parts += [spec.document_instruction, str(spec.marks_template)]
    tokenizer = plain(load_tokenizer(model)).to_str()
    return hashlib.sha256(json.dumps([*parts, tokenizer]).encode()).hexdigest()


def text_digests(texts: list[str]) -> np.ndarray:
    """`identities.digest` of each, int64 [N]."""
    known = {text: digest(text) for text in set(texts)}
    return np.fromiter((known[text] for text in texts), dtype=np.int64, count=len(texts))


def token_lists(tokens: list[list[int]]) -> pa.ListArray:
    """Token ids as a column of int32 lists."""
    lengths = np.fromiter(map(len, tokens), dtype=np.int32, count=len(tokens))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.fromiter((i for ids in tokens for i in ids), dtype=np.int32, count=offsets[-1])
    return pa.ListArray.from_arrays(offsets, values)
