"""Embedder: backbone, tokenizer and EncodingSpec together, text in, vector out."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from components.model.agreement import ENCODING_FILE, check_agreement
from components.model.backbone import (
    has_relative_positions,
    is_causal,
    load_backbone,
    longest_text,
    positions_from_mask,
    set_attention,
    takes_position_ids,
    transformer_blocks,
)
from components.model.framing import Framer, split_marks
from components.model.pooling import Pooler, pooled_tokens
from components.model.spec import EncodingSpec, Side
from components.model.tokens import appended_token, batches_by_length, load_tokenizer
from components.monitor import Monitor, Silent

POOLING_FILE = "pooling.safetensors"
"""Weights of pooling and projection, where those have any."""

Precision = Literal["float32", "bfloat16"]
ComputePrecision = Literal["float32", "bfloat16", "int8"]
"""In which vectors and scores are computed where nothing is trained; int8 is linear layers' on a CPU (`int8.py`)."""
DTYPES: dict[ComputePrecision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,
}
"""Of the weights as they are loaded."""


class Embedder(nn.Module):
    """An embedding model.

    Args:
        backbone: transformer without head; its attention is set to what the spec says.
        spec: how it is used.
        tokenizer: appends `spec.end_token` itself (`tokens.append_end_token`).

    Attributes:
        pooling: from hidden states to the vector; its weights, if it has any, are as they start.
        denoises_template: in training mode the vector of the template alone, its tokens at the positions they have
            around the text, is taken off the text's (PromptBERT, arXiv 2201.04337, 3.3).

    Raises:
        ValueError: spec, backbone and tokenizer do not fit one another.
    """

    def __init__(
        self, backbone: PreTrainedModel, spec: EncodingSpec, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        set_attention(backbone, spec.attention)
        self.pooling = Pooler(spec, backbone.config, is_causal(backbone)).to(backbone.device)
        _check_fit(backbone, self.pooling, spec, tokenizer)
        self.backbone = backbone
        self.spec = spec
        self.tokenizer = tokenizer
        self._frame = Framer(spec, tokenizer)
        self.denoises_template = False
        self._takes_position_ids = takes_position_ids(backbone)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> "Embedder":
        """A model directory that `save` or `import_model` wrote, in eval mode.

        Raises:
            ValueError: the directory is none, or its parts do not fit one another.
        """
        spec = read_spec(directory)
        check_agreement(directory, spec)
        embedder = cls(load_backbone(directory, dtype), spec, load_tokenizer(directory))
        embedder.load_pooling(directory)
        return embedder.to(device).eval()

    def load_pooling(self, directory: str | Path) -> None:
        """Take the weights of pooling and projection from a model directory.

        Raises:
            ValueError: it does not hold them.
        """
        path = Path(directory) / POOLING_FILE
        found = load_file(path) if path.is_file() else {}
        try:
            self.pooling.load_state_dict(
                {name.removeprefix("pooling."): tensor for name, tensor in found.items()}
            )
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not hold the weights of pooling {self.spec.pooling!r} and projection "
                f"{self.spec.projection!r}: {str(error).splitlines()[-1].strip()}"
            ) from error

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding table: token ids are below it."""
        return self.backbone.config.vocab_size

    def blocks(self) -> nn.ModuleList:
        """The transformer's layers, first to last: the units to shard or to recompute."""
        return transformer_blocks(self.backbone)

    def tokenize(
        self, texts: list[str], side: Side, instruction: str | None = None, length: int | None = None
    ) -> list[list[int]]:
        """Token ids: template, special tokens, cut at the side's length with the end token kept.

        Args:
            instruction: in place of the spec's own.
            length: in place of the spec's length for the side (a training stage may be shorter).
        """
        return self.tokenize_each(texts, side, [instruction] * len(texts), length)

    def tokenize_each(
        self,
        texts: Sequence[str],
        side: Side,
        instructions: Sequence[str | None],
        length: int | None = None,
    ) -> list[list[int]]:
        """As `tokenize`, each text with an instruction of its own."""
        prefix_of = {told: self.spec.prefix(side, told) for told in set(instructions)}
        prefixes = [prefix_of[told] for told in instructions]
        return self._frame(side, prefixes, texts, length or self.spec.length(side))

    def pad(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """`input_ids_BT` and `attention_mask_BT`: int64, on the model's device, padded on the spec's side."""
        shape = (len(token_ids), max(map(len, token_ids)))
        input_ids_BT = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask_BT = np.zeros(shape, dtype=np.int64)
        for row, ids in enumerate(token_ids):
            start = 0 if self.spec.padding_side == "right" else shape[1] - len(ids)
            at = slice(start, start + len(ids))
            input_ids_BT[row, at] = ids
            attention_mask_BT[row, at] = 1
        return (
            torch.from_numpy(input_ids_BT).to(self.device),
            torch.from_numpy(attention_mask_BT).to(self.device),
        )

    def forward(self, token_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Vectors float32 [B, dimensions], L2-normalised where the spec says so; padding on either side.

        Args:
            token_BT: ids, those of the template marked where the spec marks them (`framing`).
        """
        input_ids_BT, template_BT = split_marks(token_BT)
        layers = self.states(input_ids_BT, attention_mask_BT)
        pooled_BT = self.pooled_tokens(input_ids_BT, template_BT, attention_mask_BT)
        bias_layers = None
        if self.denoises_template and self.training:
            seen_BT = template_BT | self._specials_behind(attention_mask_BT)
            bias_layers = self.states(input_ids_BT, attention_mask_BT, seen_BT.long())
        return self.finish(self.pooling(layers, attention_mask_BT, pooled_BT, bias_layers))

    def pooled_tokens(self, input_ids_BT: Tensor, template_BT: Tensor, attention_mask_BT: Tensor) -> Tensor:
        """Which tokens the pooling takes in, bool [B, T] (`pooling.pooled_tokens`)."""
        mask_token = self.tokenizer.mask_token_id
        return pooled_tokens(self.spec, input_ids_BT, template_BT, attention_mask_BT, mask_token)

    def _specials_behind(self, attention_mask_BT: Tensor) -> Tensor:
        """The special tokens behind each text, bool [B, T]."""
        from_end_BT = attention_mask_BT.flip(1).cumsum(1).flip(1)
        return attention_mask_BT.bool() & (from_end_BT <= self._frame.specials_behind)

    def states(
        self, input_ids_BT: Tensor, attention_mask_BT: Tensor, seen_BT: Tensor | None = None
    ) -> Sequence[Tensor]:
        """Hidden states [B, T, D] of every layer, if the pooling takes them, else of the last one alone.

        Args:
            seen_BT: the tokens that are attended to; None: all. Positions count the others too.
        """
        positions = (
            {"position_ids": positions_from_mask(attention_mask_BT)} if self._takes_position_ids else {}
        )
        output = self.backbone(
            input_ids=input_ids_BT,
            attention_mask=attention_mask_BT if seen_BT is None else seen_BT,
            output_hidden_states=self.pooling.all_layers,
            **positions,
        )
        return output.hidden_states[1:] if self.pooling.all_layers else (output.last_hidden_state,)

    def finish(self, pooled_BD: Tensor) -> Tensor:
        """The vector out of what pooling gave: its first dimensions, normalised where the spec says so."""
        vector_BD = pooled_BD[:, : self.spec.dimensions]
        return normalize(vector_BD, dim=-1) if self.spec.normalize else vector_BD

    def encode(
        self,
        texts: list[str],
        side: Side,
        instruction: str | None = None,
        tokens_per_batch: int = 8192,
        monitor: Monitor | None = None,
    ) -> np.ndarray:
        """Vectors of texts, float32 [N, dimensions], in the order of the texts.

        Texts of like length share a batch, so that little is padded; dropout is off.

        Args:
            tokens_per_batch: padded tokens in one forward pass.
            monitor: told how many texts are done.
        """
        return self.encode_tokens(self.tokenize(texts, side, instruction), tokens_per_batch, monitor)

    @torch.inference_mode()
    def encode_tokens(
        self, token_ids: list[list[int]], tokens_per_batch: int = 8192, monitor: Monitor | None = None
    ) -> np.ndarray:
        """As `encode`, of what `tokenize` gave."""
        monitor = monitor or Silent()
        vector_ND = np.empty((len(token_ids), self.spec.dimensions), dtype=np.float32)
        was_training = self.training
        self.eval()
        done = 0
        for rows in self.batches([len(ids) for ids in token_ids], tokens_per_batch):
            vector_ND[rows] = self(*self.pad([token_ids[row] for row in rows])).cpu().numpy()
            done += len(rows)
            monitor.progress(done, len(token_ids), "texts")
        self.train(was_training)
        return vector_ND

    def batches(self, lengths: Sequence[int], tokens_per_batch: int) -> Iterator[np.ndarray]:
        """Which texts to compute together, as numbers of rows, by the tokens that each has."""
        return batches_by_length(lengths, tokens_per_batch)

    def save(self, directory: str | Path) -> None:
        """Write the model directory (`export.save_model`)."""
        from components.model.export import save_model  # export loads what it wrote, through this class

        save_model(directory, self.backbone.config, self.state_dict(), self.spec, self.tokenizer)


def read_spec(directory: str | Path) -> EncodingSpec:
    """The EncodingSpec of a model directory.

    Raises:
        ValueError: there is none, or it is not one.
    """
    path = Path(directory) / ENCODING_FILE
    if not path.is_file():
        raise ValueError(f"{directory} is no model directory of embedloom: {ENCODING_FILE} is missing")
    try:
        return EncodingSpec.from_json(json.loads(path.read_text("utf-8"))["spec"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no encoding file: {error!r}") from error


def _check_fit(
    backbone: PreTrainedModel, pooling: Pooler, spec: EncodingSpec, tokenizer: PreTrainedTokenizerFast
) -> None:
    if spec.dimensions > pooling.width:
        what = "the backbone's hidden size" if spec.projection == "none" else "what the projection gives,"
        raise ValueError(f"dimensions is {spec.dimensions}, above {what} {pooling.width}")
    if spec.padding_side == "left" and not (
        takes_position_ids(backbone)
        or has_relative_positions(backbone)
        or hasattr(getattr(backbone, "embeddings", None), "padding_idx")
    ):
        raise ValueError(f"{type(backbone).__name__} cannot be told positions: padding_side must be 'right'")
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no padding token; set one in tokenizer_config.json")
    longest = longest_text(backbone)
    if longest is not None and max(spec.query_length, spec.document_length) > longest:
        raise ValueError(
            f"query_length {spec.query_length} and document_length {spec.document_length} must not be above "
            f"the backbone's {longest} positions"
        )
    if spec.end_token is not None and appended_token(tokenizer) != spec.end_token:
        raise ValueError(f"the tokenizer does not append the end token {spec.end_token!r}")
