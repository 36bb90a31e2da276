"""Rerankers: a query and a document in, the probability that the document answers the query out.

Three kinds by one interface: a causal language model that says yes or no, the same as a classifier with one output,
and a cross-encoder with one output. How a directory is read, its `reranker.json` says (`reranker_file.py`).
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Cache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from components.model.backbone import (
    is_causal,
    load_pretrained,
    positions_from_mask,
    takes_position_ids,
    transformer_blocks,
)
from components.model.pair_tokens import JointTokens, PairTokens, PromptTokens, Tokens
from components.model.prompt import RerankerSpec
from components.model.reranker_agreement import check_reranker_agreement, told_by_others
from components.model.reranker_file import PairSpec, architecture_of, longest, read_reranker_spec
from components.model.shared_prefix import SharedRow, can_share, common_prefix, pad_rows
from components.model.spec import PaddingSide
from components.model.tokens import batches_by_length, load_tokenizer
from components.monitor import Monitor, Silent

_WORTH_SHARING = 16
"""Tokens that texts must have in common for their prefix to be computed apart."""


class Reranker(nn.Module, ABC):
    """What all kinds share: batches, padding, the score.

    Attributes:
        model: the transformer with its head, in eval mode when loaded.
        tokenize: tokens of queries, documents and instructions.
        padding_side: execution only; the scores do not depend on it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        tokenize: PairTokens,
        padding_side: PaddingSide,
    ) -> None:
        super().__init__()
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest and 0 < longest < tokenize.length:
            raise ValueError(f"length is {tokenize.length}, above the model's {longest} positions")
        self.model = model
        self.tokenizer = tokenizer
        self.tokenize = tokenize
        self.padding_side: PaddingSide = padding_side
        self._takes_position_ids = takes_position_ids(model)
        # A text is padded with any token: what is masked is not read.
        self._padding_id = tokenizer.pad_token_id or 0

    @property
    def backbone(self) -> PreTrainedModel:
        """The transformer, head included."""
        return self.model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def length(self) -> int:
        """Longest text in tokens."""
        return self.tokenize.length

    @property
    @abstractmethod
    def pair_spec(self) -> PairSpec:
        """What `reranker.json` says of it."""

    def save(self, directory: str | Path) -> None:
        """Write the reranker directory (`reranker_export.save_reranker`)."""
        from components.model.reranker_export import save_reranker  # it loads what it wrote, by this module

        save_reranker(directory, self.model.config, self.model.state_dict(), self.pair_spec, self.tokenizer)

    def blocks(self) -> nn.ModuleList:
        """The transformer's layers, first to last: the units to shard or to recompute."""
        return transformer_blocks(self.model)

    @abstractmethod
    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, type_ids_BT: Tensor) -> Tensor:
        """The logit of the score, float32 [B]; padding on either side."""

    def _prepare(self, tokens: Sequence[Tokens]) -> Callable[[np.ndarray], Tensor]:
        """Logits [B] of the texts of some numbers, each of them asked for once."""
        return lambda rows: self(*self.pad([tokens[row] for row in rows]))

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
        logits = self._prepare(tokens)
        for rows in batches_by_length([len(row.ids) for row in tokens], tokens_per_batch):
            score_N[rows] = torch.sigmoid(logits(rows)).cpu().numpy()
            done += len(rows)
            monitor.progress(done, len(tokens), "pairs")
        self.train(was_training)
        return score_N


class PromptedReranker(Reranker):
    """A decoder under the prompt of a `RerankerSpec` (Qwen3 Embedding, arXiv 2506.05176, 2).

    What all texts of a call begin with, the prompt and often the query, is computed once when it scores.

    Attributes:
        yes_id, no_id: the tokens that answer.

    Raises:
        ValueError: model, tokenizer and spec do not fit one another.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spec: RerankerSpec
    ) -> None:
        tokens = PromptTokens(tokenizer, spec)
        super().__init__(model, tokenizer, tokens, spec.padding_side)
        self.spec, self.yes_id, self.no_id = spec, tokens.yes_id, tokens.no_id

    @property
    def pair_spec(self) -> PairSpec:
        return PairSpec(prompt=self.spec)

    @abstractmethod
    def logit(self, input_ids_BT: Tensor, attention_mask_BS: Tensor, cache: Cache | None = None) -> Tensor:
        """The logit of the score, float32 [B].

        Args:
            attention_mask_BS: of what the cache holds, then of the T tokens.
            cache: of what stands before the tokens, for each of the B texts; it is written to.
        """

    def forward(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, type_ids_BT: Tensor) -> Tensor:
        return self.logit(input_ids_BT, attention_mask_BT)

    def _prepare(self, tokens: Sequence[Tokens]) -> Callable[[np.ndarray], Tensor]:
        shared = common_prefix([text.ids for text in tokens])
        if len(tokens) < 2 or shared < _WORTH_SHARING or not self._takes_position_ids:
            return super()._prepare(tokens)
        prefix_1P = torch.tensor([tokens[0].ids[:shared]], device=self.device)
        cache = self.model.base_model(input_ids=prefix_1P, use_cache=True).past_key_values

        def logits(rows: np.ndarray) -> Tensor:
            own = [Tokens(tokens[row].ids[shared:], tokens[row].type_ids[shared:]) for row in rows]
            input_ids_BT, attention_mask_BT, _ = self.pad(own)
            seen_BP = attention_mask_BT.new_ones(len(own), shared)
            repeated = deepcopy(cache)
            repeated.batch_repeat_interleave(len(own))
            return self.logit(input_ids_BT, torch.cat([seen_BP, attention_mask_BT], dim=1), repeated)

        return logits

    def _arguments(self, attention_mask_BS: Tensor, tokens: int, cache: Cache | None) -> dict[str, Any]:
        """What the transformer is told beside the tokens."""
        told: dict[str, Any] = {"attention_mask": attention_mask_BS, "use_cache": cache is not None}
        if cache is not None:
            told["past_key_values"] = cache
        if self._takes_position_ids:
            told["position_ids"] = positions_from_mask(attention_mask_BS)[:, -tokens:]
        return told


class YesNoReranker(PromptedReranker):
    """A causal language model: softmax over the logits of no and yes at the last position, the yes side:
    sigmoid(z_yes - z_no).

    Args:
        model: with a language-model head.

    Attributes:
        shares_prefixes: whether its attention takes rows of several texts (`logits_of_rows`).

    Raises:
        ValueError: model, tokenizer and spec do not fit one another.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spec: RerankerSpec
    ) -> None:
        super().__init__(model, tokenizer, spec)
        if "logits_to_keep" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"{type(model).__name__} cannot compute the logits of one position alone")
        self.shares_prefixes = can_share(model)

    def last_logits(
        self, input_ids_BT: Tensor, attention_mask_BS: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Logits over the vocabulary [B, V] at each text's last position; those of no other are computed.

        Padded on the right, also those of the last positions of the batch's other lengths. Arguments as of `logit`.
        """
        tokens = input_ids_BT.shape[1]
        kept_K, column_B = _last_positions(attention_mask_BS[:, -tokens:]).unique(return_inverse=True)
        logits_BKV = self.model(
            input_ids=input_ids_BT, logits_to_keep=kept_K, **self._arguments(attention_mask_BS, tokens, cache)
        ).logits
        return logits_BKV[torch.arange(len(column_B), device=column_B.device), column_B]

    def logits_of_rows(self, rows: Sequence[SharedRow]) -> Tensor:
        """As `last_logits` [N, V], of texts that stand in rows behind what they share, row after row.

        Only where `shares_prefixes`.
        """
        ids_BT, positions_BT, added_B1TT, last = pad_rows(
            rows, self._padding_id, self.device, self.model.dtype
        )
        # The head is handed the texts' last states alone, whichever positions those are at.
        gather = self.model.get_output_embeddings().register_forward_pre_hook(
            lambda _, given: (given[0][last][None],)
        )
        try:
            logits_1NV = self.model(
                input_ids=ids_BT, position_ids=positions_BT, attention_mask=added_B1TT, use_cache=False
            ).logits
        finally:
            gather.remove()
        return logits_1NV[0]

    def yes_minus_no(self, logits_BV: Tensor) -> Tensor:
        """The logit of the score, float32 [B]."""
        return logits_BV[:, self.yes_id].float() - logits_BV[:, self.no_id].float()

    def logit(self, input_ids_BT: Tensor, attention_mask_BS: Tensor, cache: Cache | None = None) -> Tensor:
        return self.yes_minus_no(self.last_logits(input_ids_BT, attention_mask_BS, cache))


class YesNoClassifier(PromptedReranker):
    """What `YesNoReranker` computes, by a decoder with one output: its weights are W[yes] - W[no] of the head.

    Raises:
        ValueError: the model has not exactly one output, or does not fit tokenizer and spec.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, spec: RerankerSpec
    ) -> None:
        super().__init__(model, tokenizer, spec)
        _check_one_output(model)

    def logit(self, input_ids_BT: Tensor, attention_mask_BS: Tensor, cache: Cache | None = None) -> Tensor:
        tokens = input_ids_BT.shape[1]
        hidden_BTD = self.model.base_model(
            input_ids=input_ids_BT, **self._arguments(attention_mask_BS, tokens, cache)
        ).last_hidden_state
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        last_BD = hidden_BTD[rows_B, _last_positions(attention_mask_BS[:, -tokens:])]
        return self.model.score(last_BD)[:, 0].float()  # type: ignore[operator]


class CrossEncoder(Reranker):
    """A sequence classifier with one output (BERT and its kin); the score is its sigmoid.

    Raises:
        ValueError: the model has not exactly one output, or is a decoder.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, length: int) -> None:
        super().__init__(model, tokenizer, JointTokens(tokenizer, length), "right")
        _check_one_output(model)
        if is_causal(cast(PreTrainedModel, model.base_model)):
            raise ValueError(
                f"{type(model).__name__} is a decoder, which was trained under a prompt; without a "
                "reranker.json beside it nobody knows which"
            )
        self._takes_type_ids = "token_type_ids" in tokenizer.model_input_names

    @property
    def pair_spec(self) -> PairSpec:
        return PairSpec(length=self.length)

    def head(self) -> Iterator[nn.Parameter]:
        """What stands behind the encoder's layers, a pooler included: of a new reranker, what was drawn at random."""
        inside = f"{self.model.base_model_prefix}."
        for name, parameter in self.model.named_parameters():
            if not name.startswith(inside) or ".pooler." in name:
                yield parameter

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
    """The reranker of a directory, in eval mode: which kind it is, `config.json` and `reranker.json` say.

    Args:
        spec: of a decoder; None: the directory's own, or else what its chat template says, or else the published
            prompt.
        length: longest text in tokens where there is no spec; None: what the model can read, at most 8,192.

    Raises:
        ValueError: the directory holds no kind of reranker, or its parts do not fit or contradict one another.
    """
    architecture = architecture_of(directory)
    is_language_model = architecture.endswith("ForCausalLM")
    auto = AutoModelForCausalLM if is_language_model else AutoModelForSequenceClassification
    model, missing = load_pretrained(auto, directory, dtype)
    if missing:
        raise ValueError(f"the weights in {directory} lack {len(missing)} tensors, the first is {missing[0]}")
    tokenizer = load_tokenizer(directory)
    told = read_reranker_spec(directory)
    check_reranker_agreement(directory, told, tokenizer)
    reranker: Reranker
    is_prompted = told.prompt is not None or (
        spec is not None and is_causal(cast(PreTrainedModel, model.base_model))
    )
    if is_language_model or is_prompted:
        prompt = spec or told.prompt or _inferred_prompt(directory, tokenizer)
        if length is not None and spec is None:
            prompt = replace(prompt, length=length)
        kind = YesNoReranker if is_language_model else YesNoClassifier
        reranker = kind(model, tokenizer, prompt)
    elif spec is not None:
        raise ValueError(f"{directory} holds a cross-encoder: it reads a query and a document, no prompt")
    else:
        reranker = CrossEncoder(model, tokenizer, length or told.length or longest(directory, tokenizer))
    return reranker.to(device).eval()


def load_pair_tokens(directory: str | Path) -> PairTokens:
    """How the reranker of a directory reads queries and documents; its weights are not read.

    Raises:
        ValueError: the directory holds no kind of reranker, or tokenizer and prompt do not fit one another.
    """
    tokenizer = load_tokenizer(directory)
    told = read_reranker_spec(directory)
    if architecture_of(directory).endswith("ForCausalLM") or told.prompt is not None:
        return PromptTokens(tokenizer, told.prompt or _inferred_prompt(directory, tokenizer))
    return JointTokens(tokenizer, told.length or longest(directory, tokenizer))


def _inferred_prompt(directory: str | Path, tokenizer: PreTrainedTokenizerFast) -> RerankerSpec:
    """What the model's other files tell, or else the published prompt."""
    return RerankerSpec(
        **{"length": longest(directory, tokenizer)} | told_by_others(directory, tokenizer)  # type: ignore[arg-type]
    )


def _check_one_output(model: PreTrainedModel) -> None:
    if model.config.num_labels != 1:
        raise ValueError(f"a cross-encoder has one output; this model has {model.config.num_labels}")


def _last_positions(attention_mask_BT: Tensor) -> Tensor:
    """Of the last token that is no padding, int64 [B]."""
    return attention_mask_BT.shape[1] - 1 - attention_mask_BT.flip(1).int().argmax(1)
