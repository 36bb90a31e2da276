"""A query and a document to the tokens that a reranker reads."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple, Protocol

from transformers import PreTrainedTokenizerFast

from components.model.prompt import RerankerSpec
from components.model.tokens import plain


class Tokens(NamedTuple):
    """One query and document as a model reads them."""

    ids: list[int]
    type_ids: list[int]
    """0 for what belongs to the query, 1 for the document; only a cross-encoder looks at it."""


class PairTokens(Protocol):
    """Tokens of queries with documents; knows of no weights."""

    length: int
    """Most tokens of a pair."""

    def __call__(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        """Of each query and document, at most `length`; an instruction of None: the spec's own."""
        ...

    def digest(self) -> str:
        """Of all that decides which tokens a pair becomes."""
        ...


class PromptTokens:
    """Under the prompt of a `RerankerSpec`; what is too long loses the end of its body.

    Attributes:
        yes_id, no_id: the tokens that answer.

    Raises:
        ValueError: an answer is not one token of this tokenizer, or the prompt leaves no room for a body.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, spec: RerankerSpec) -> None:
        self.spec, self.length = spec, spec.length
        self._backend = plain(tokenizer)
        self._serialized = self._backend.to_str()
        self._prefix, self._suffix = self._ids(spec.prefix), self._ids(spec.suffix)
        self.yes_id, self.no_id = self._single_token(spec.yes), self._single_token(spec.no)
        if self.yes_id == self.no_id:
            raise ValueError(f"{spec.yes!r} and {spec.no!r} are one token to this tokenizer")
        room = spec.length - len(self._prefix) - len(self._suffix)
        if room < 1:
            raise ValueError(
                f"a length of {spec.length} tokens leaves no room beside the {spec.length - room} of prefix "
                "and suffix"
            )
        self._backend.enable_truncation(max_length=room)

    def _ids(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _single_token(self, word: str) -> int:
        ids = self._ids(word)
        if len(ids) != 1:
            raise ValueError(
                f"the answer {word!r} is {len(ids)} tokens to this tokenizer; it must be one: give other words "
                "in `yes` and `no`"
            )
        return ids[0]

    def __call__(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        bodies = [
            self.spec.format_body(query, document, instruction)
            for query, document, instruction in zip(queries, documents, instructions, strict=True)
        ]
        found = self._backend.encode_batch_fast(bodies, add_special_tokens=False)
        texts = [self._prefix + body.ids + self._suffix for body in found]
        return [Tokens(ids, [0] * len(ids)) for ids in texts]

    def digest(self) -> str:
        spec = {name: value for name, value in asdict(self.spec).items() if name != "padding_side"}
        return _digest([spec, self._serialized])


class JointTokens:
    """As a cross-encoder reads them: query, separator, document. The longer of the two is cut until both fit, as
    sentence-transformers does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        self.length = length
        self._backend = plain(tokenizer)
        self._serialized = self._backend.to_str()
        self._backend.enable_truncation(max_length=length, strategy="longest_first")

    def __call__(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        pairs = [
            (query, document) for query, document, _ in zip(queries, documents, instructions, strict=True)
        ]
        return [Tokens(found.ids, found.type_ids) for found in self._backend.encode_batch(pairs)]

    def digest(self) -> str:
        return _digest([self.length, self._serialized])


def _digest(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
