"""Rerankers: a query and a document in, the probability that the document answers the query out.

Two kinds by one interface: a causal language model that says yes or no, and a cross-encoder with one output.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from components.model.backbone import is_causal, load_pretrained, positions_from_mask, takes_position_ids
from components.model.prompt import RerankerSpec
from components.model.spec import PaddingSide
from components.model.tokens import batches_by_length, load_tokenizer, plain
from components.monitor import Monitor, Silent

_DEFAULT_LENGTH = 8192


class Tokens(NamedTuple):
    """One query and document as a model reads them."""

    ids: list[int]
    type_ids: list[int]
    """0 for what belongs to the query, 1 for the document; only a cross-encoder looks at it."""


class Reranker(nn.Module, ABC):
    """What both kinds share: batches, padding, the score.

    Attributes:
        model: the transformer with its head, in eval mode when loaded.
        length: longest text in tokens.
        padding_side: execution only; the scores do not depend on it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        length: int,
        padding_side: PaddingSide,
    ) -> None:
        super().__init__()
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest and 0 < longest < length:
            raise ValueError(f"length is {length}, above the model's {longest} positions")
        self.model = model
        self.tokenizer = tokenizer
        self.length = length
        self.padding_side: PaddingSide = padding_side
        # A text is padded with any token: what is masked is not read.
        self._padding_id = tokenizer.pad_token_id or 0

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abstractmethod
    def tokenize(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        """Tokens of each query and document, at most `length`; an instruction of None: the spec's own."""

    @abstractmethod
    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, type_ids_BT: Tensor) -> Tensor:
        """The logit of the score, float32 [B]; padding on either side."""

    def pad(self, tokens: Sequence[Tokens]) -> tuple[Tensor, Tensor, Tensor]:
        """`input_ids_BT`, `attention_mask_BT`, `type_ids_BT`: int64, on the model's device."""
        width = max(len(row.ids) for row in tokens)
        input_ids_BT = np.full((len(tokens), width), self._padding_id, dtype=np.int64)
        attention_mask_BT, type_ids_BT = np.zeros_like(input_ids_BT), np.zeros_like(input_ids_BT)
        for row, (ids, type_ids) in enumerate(tokens):
            start = 0 if self.padding_side == "right" else width - len(ids)
            at = slice(start, start + len(ids))
            input_ids_BT[row, at], attention_mask_BT[row, at], type_ids_BT[row, at] = ids, 1, type_ids
        parts = (input_ids_BT, attention_mask_BT, type_ids_BT)
        input_ids, attention_mask, types = (torch.from_numpy(part).to(self.device) for part in parts)
        return input_ids, attention_mask, types

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        instructions: Sequence[str | None],
        tokens_per_batch: int = 8192,
        monitor: Monitor | None = None,
    ) -> np.ndarray:
        """Scores in [0, 1], float32 [N], row by row. Dropout is off.

        Args:
            instructions: one a row; None: the spec's own. A cross-encoder has no place for one.
            tokens_per_batch: padded tokens in one forward pass.
            monitor: told how many pairs are done.

        Raises:
            ValueError: the three differ in length.
        """
        return self.score_tokens(
            self.tokenize(queries, documents, instructions), tokens_per_batch, monitor or Silent()
        )

    @torch.inference_mode()
    def score_tokens(self, tokens: Sequence[Tokens], tokens_per_batch: int, monitor: Monitor) -> np.ndarray:
        """As `score`, of what `tokenize` gave."""
        score_N = np.empty(len(tokens), dtype=np.float32)
        was_training = self.training
        self.eval()
        done = 0
        for rows in batches_by_length([len(row.ids) for row in tokens], tokens_per_batch):
            logit_B = self(*self.pad([tokens[row] for row in rows]))
            score_N[rows] = torch.sigmoid(logit_B).cpu().numpy()
            done += len(rows)
            monitor.progress(done, len(tokens), "pairs")
        self.train(was_training)
        return score_N


class YesNoReranker(Reranker):
    """A causal language model under the prompt of a `RerankerSpec` (Qwen3 Embedding, arXiv 2506.05176, 2).

    The score is softmax over the logits of no and yes at the last position, the yes side:
    sigmoid(z_yes - z_no).

    Args:
        model: with a language-model head.

    Raises:
        ValueError: model, tokenizer and spec do not fit one another.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spec: RerankerSpec
    ) -> None:
        super().__init__(model, tokenizer, spec.length, spec.padding_side)
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"{type(model).__name__} cannot compute the logits of one position alone")
        self.spec = spec
        self._takes_position_ids = takes_position_ids(model)
        self._backend = plain(tokenizer)
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
            raise ValueError(f"the answer {word!r} is {len(ids)} tokens to this tokenizer; it must be one")
        return ids[0]

    def tokenize(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        bodies = [
            self.spec.format_body(query, document, instruction)
            for query, document, instruction in zip(queries, documents, instructions, strict=True)
        ]
        found = self._backend.encode_batch_fast(bodies, add_special_tokens=False)
        texts = [self._prefix + body.ids + self._suffix for body in found]
        return [Tokens(ids, [0] * len(ids)) for ids in texts]

    def last_logits(self, input_ids_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Logits over the vocabulary [B, V] at each text's last position; those of no other are computed.

        Padded on the right, also those of the last positions of the batch's other lengths.
        """
        width = attention_mask_BT.shape[1]
        last_B = width - 1 - attention_mask_BT.flip(1).int().argmax(1)
        kept_K, column_B = last_B.unique(return_inverse=True)
        positions = (
            {"position_ids": positions_from_mask(attention_mask_BT)} if self._takes_position_ids else {}
        )
        logits_BKV = self.model(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BT,
            use_cache=False,
            logits_to_keep=kept_K,
            **positions,
        ).logits
        return logits_BKV[torch.arange(len(column_B), device=column_B.device), column_B]

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, type_ids_BT: Tensor) -> Tensor:
        logits_BV = self.last_logits(input_ids_BT, attention_mask_BT)
        return logits_BV[:, self.yes_id].float() - logits_BV[:, self.no_id].float()


class CrossEncoder(Reranker):
    """A sequence classifier with one output (BERT and its kin); the score is its sigmoid.

    The longer of query and document is cut until both fit, as sentence-transformers does it.

    Raises:
        ValueError: the model has not exactly one output, or is a decoder.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        super().__init__(model, tokenizer, length, "right")
        if model.config.num_labels != 1:
            raise ValueError(f"a cross-encoder has one output; this model has {model.config.num_labels}")
        if is_causal(cast(PreTrainedModel, model.base_model)):
            # Such a model was trained under a prompt, which its directory does not tell.
            raise ValueError(f"{type(model).__name__} is a decoder; a cross-encoder is an encoder")
        self._backend = plain(tokenizer)
        self._backend.enable_truncation(max_length=length, strategy="longest_first")
        self._takes_type_ids = "token_type_ids" in tokenizer.model_input_names

    def tokenize(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None]
    ) -> list[Tokens]:
        pairs = [
            (query, document) for query, document, _ in zip(queries, documents, instructions, strict=True)
        ]
        return [Tokens(found.ids, found.type_ids) for found in self._backend.encode_batch(pairs)]

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, type_ids_BT: Tensor) -> Tensor:
        types = {"token_type_ids": type_ids_BT} if self._takes_type_ids else {}
        logits_B1 = self.model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, **types).logits
        return logits_B1[:, 0].float()


def load_reranker(
    directory: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    spec: RerankerSpec | None = None,
    length: int | None = None,
) -> Reranker:
    """The reranker of a directory, in eval mode: which kind it is, `config.json` says.

    Args:
        spec: of a language model; None: the published prompt.
        length: longest text in tokens where there is no spec; None: what the model can read, at most 8,192.

    Raises:
        ValueError: the directory holds neither kind, or its parts do not fit one another.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no reranker: config.json is missing")
    architectures = json.loads(path.read_text("utf-8")).get("architectures") or [""]
    kinds = {
        "ForCausalLM": AutoModelForCausalLM,
        "ForSequenceClassification": AutoModelForSequenceClassification,
    }
    found = [auto for suffix, auto in kinds.items() if architectures[0].endswith(suffix)]
    if not found:
        raise ValueError(
            f"{directory} holds a {architectures[0] or 'model of no named architecture'}; a reranker is a causal "
            "language model or a sequence classifier"
        )
    model, missing = load_pretrained(found[0], directory, dtype)
    if missing:
        raise ValueError(f"the weights in {directory} lack {len(missing)} tensors, the first is {missing[0]}")
    tokenizer = load_tokenizer(directory)
    positions = getattr(model.config, "max_position_embeddings", None) or _DEFAULT_LENGTH
    length = length or min(positions, tokenizer.model_max_length, _DEFAULT_LENGTH)
    reranker: Reranker
    if found[0] is AutoModelForCausalLM:
        reranker = YesNoReranker(model, tokenizer, spec or RerankerSpec(length=length))
    elif spec is not None:
        raise ValueError(f"{directory} holds a cross-encoder: it reads a query and a document, no prompt")
    else:
        reranker = CrossEncoder(model, tokenizer, length)
    return reranker.to(device).eval()
