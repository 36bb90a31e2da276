"""Texts to token ids: the end token, the cut at a length, batches of a bounded size."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.processors import ByteLevel, TemplateProcessing
from tokenizers.processors import Sequence as Processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast


def load_tokenizer(directory: str | Path, gguf_file: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer of a directory, or of a GGUF file in it.

    Raises:
        ValueError: it has none that the `tokenizers` library runs.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), gguf_file=gguf_file, local_files_only=True)
    except OSError as error:
        raise ValueError(f"{directory} holds no tokenizer: {str(error).splitlines()[0]}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(f"the tokenizer in {directory} has no tokenizer.json")
    return tokenizer


def append_end_token(tokenizer: PreTrainedTokenizerFast, end_token: str) -> None:
    """Make the tokenizer itself put `end_token` behind every text, in place.

    It is part of tokenizer.json's post-processor then, so transformers, sentence-transformers and vLLM append
    it too, and a cut keeps it. A tokenizer that ends its texts with that token already is left as it is.

    Raises:
        ValueError: the token is not one token of the vocabulary, or the tokenizer frames its texts otherwise.
    """
    end_id = token_id(tokenizer, end_token)
    if appended_token(tokenizer) == end_token:
        return
    backend = tokenizer.backend_tokenizer
    before = json.loads(backend.to_str())["post_processor"]
    stages = before["processors"] if before and before["type"] == "Sequence" else [before] if before else []
    kept = [stage for stage in stages if stage["type"] == "ByteLevel"]
    templates = [stage for stage in stages if stage["type"] == "TemplateProcessing"]
    if len(templates) > 1 or len(kept) + len(templates) != len(stages):
        raise ValueError(
            f"the tokenizer frames its texts by {[stage['type'] for stage in stages]}, "
            f"behind which no end token {end_token!r} can be put"
        )
    # One template says it all: of two in a sequence the second would be put into the first's pieces.
    empty: dict[str, Any] = {"single": _pieces("A"), "pair": _pieces("AB"), "special_tokens": {}}
    template = templates[0] if templates else empty
    processor = TemplateProcessing(
        single=[*map(_piece, template["single"]), f"{end_token}:0"],
        pair=[*map(_piece, template["pair"]), f"{end_token}:1"],
        special_tokens=[*template["special_tokens"].values(), (end_token, end_id)],
    )
    byte_levels = [
        ByteLevel(stage["add_prefix_space"], stage["trim_offsets"], stage["use_regex"]) for stage in kept
    ]
    backend.post_processor = Processors([*byte_levels, processor]) if kept else processor


def _pieces(sequences: str) -> list[dict[str, Any]]:
    return [{"Sequence": {"id": name, "type_id": number}} for number, name in enumerate(sequences)]


def _piece(piece: dict[str, Any]) -> str:
    """A piece of a template in tokenizer.json as TemplateProcessing takes it."""
    ((kind, value),) = piece.items()
    return f"{'$' if kind == 'Sequence' else ''}{value['id']}:{value['type_id']}"


def appended_token(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The special token that the tokenizer puts behind a text; None if it puts none."""
    backend = tokenizer.backend_tokenizer
    whole, text = (_unpadded(backend.encode("a", add_special_tokens=framed)) for framed in (True, False))
    return whole[-1] if whole[len(whole) - len(text) :] != text else None


def _unpadded(encoding: Encoding) -> list[str]:
    """Tokens without the padding that a tokenizer's own file may ask for."""
    return [token for token, is_text in zip(encoding.tokens, encoding.attention_mask, strict=True) if is_text]


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a token.

    Raises:
        ValueError: the vocabulary has no such token.
    """
    found = tokenizer.backend_tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer's vocabulary has no token {token!r}")
    return found


def plain(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer's backend that neither cuts nor pads."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


class Cutter:
    """Tokenizes and cuts at a length. Safe to use from several threads: no backend changes once made."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._serialized = plain(tokenizer).to_str()
        self._for_length = lru_cache(maxsize=8)(self._make)

    def __getstate__(self) -> dict[str, str]:
        return {"_serialized": self._serialized}

    def __setstate__(self, state: dict[str, str]) -> None:
        self._serialized = state["_serialized"]
        self._for_length = lru_cache(maxsize=8)(self._make)

    def _make(self, length: int) -> Tokenizer:
        backend = Tokenizer.from_str(self._serialized)
        specials = backend.num_special_tokens_to_add(is_pair=False)
        if length <= specials:
            raise ValueError(
                f"a length of {length} tokens leaves no room for text beside {specials} special tokens"
            )
        backend.enable_truncation(max_length=length)
        return backend

    def __call__(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most `length` each."""
        return [found.ids for found in self._for_length(length).encode_batch_fast(list(texts))]

    def with_offsets(self, texts: Sequence[str], length: int) -> list[Encoding]:
        """The same with the place of each token in its text."""
        return self._for_length(length).encode_batch(list(texts))


BATCH_SHARE = 1 / 32
"""What a batch costs beside its tokens: kernels to start, gradients to reduce."""


def batches_by_length(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Indices of texts in batches, the longest text first, cut where the least time is lost.

    A batch padded to its longest text holds at most `tokens_per_batch` tokens; a longer text stands alone. Cuts are
    those with the fewest tokens, padding included, where each batch counts for `BATCH_SHARE` of a full one beside
    its tokens: a small batch is worth its start if it saves that much padding.

    Yields: int64 [rows of the batch].
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    length_N = np.asarray(lengths, dtype=np.int64)[order]
    count = len(order)
    # cost_N[i]: of the best cuts of the first i texts; cut_N[i]: where the last of those batches begins.
    cost_N = np.zeros(count + 1)
    cut_N = np.zeros(count + 1, dtype=np.int64)
    first = 0
    for end in range(1, count + 1):
        while first < end - 1 and (end - first) * length_N[first] > tokens_per_batch:
            first += 1
        begin = np.arange(first, end)
        costs = cost_N[first:end] + (end - begin) * length_N[first:end]
        best = int(costs.argmin())
        cut_N[end] = first + best
        cost_N[end] = costs[best] + BATCH_SHARE * tokens_per_batch
    batches = []
    while count:
        batches.append(order[cut_N[count] : count])
        count = cut_N[count]
    yield from reversed(batches)
