"""One vector from the hidden states of a text. Padding may stand on either side.

Shapes: B texts, T positions, S states, L layers, Q learned queries, H heads, D dimensions.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import PretrainedConfig

from components.model.spec import EncodingSpec, Pooling

_SPREAD = 0.02
"""Standard deviation of what is learnt from nothing, as in the backbones themselves."""


def mean(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean over the tokens of the mask [B, D]."""
    return _weighted(hidden_BTD, mask_BT.to(hidden_BTD.dtype))


def weighted_mean(hidden_BTD: Tensor, mask_BT: Tensor, position_BT: Tensor) -> Tensor:
    """Mean in which the n-th token of a text counts n times (SGPT, arXiv 2202.08904, Eq. 2) [B, D].

    Args:
        position_BT: 1 at a text's first token.
    """
    return _weighted(hidden_BTD, (mask_BT * position_BT).to(hidden_BTD.dtype))


def _weighted(hidden_BTD: Tensor, weight_BT: Tensor) -> Tensor:
    # where, not a product: a position that attends to nothing may hold NaN, and NaN * 0 is NaN
    kept_BTD = hidden_BTD.where(weight_BT.unsqueeze(-1) > 0, 0)
    total_B1 = weight_BT.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("btd,bt->bd", kept_BTD, weight_BT) / total_B1


def largest(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Maximum over the tokens of the mask, dimension by dimension [B, D]."""
    return hidden_BTD.masked_fill(~mask_BT.bool().unsqueeze(-1), float("-inf")).amax(1)


def cls(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the first token of the mask [B, D]."""
    return _at(hidden_BTD, mask_BT.int().argmax(1))


def last(hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """State of the last token of the mask [B, D]: of the end token, where the tokenizer appends one."""
    return _at(hidden_BTD, mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(1))


def _at(hidden_BTD: Tensor, position_B: Tensor) -> Tensor:
    return hidden_BTD[torch.arange(len(hidden_BTD), device=hidden_BTD.device), position_B]


AT_TOKENS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "max": largest,
    "cls": cls,
    "last": last,
    "prompt": last,  # of the one position that `pooled_tokens` leaves
}


class CrossAttention(nn.Module):
    """Learned queries look at the states of a text; the mean of what they find (arXiv 2409.02727, 3.2).

    Queries and states are layer-normalised, the queries attend to the states, a gated feed-forward layer follows, each
    with a residual connection. As wide as the backbone, with heads as its own; the published one is eight
    times as wide inside.

    Args:
        size: D.
        heads: H, a divisor of D.
        queries: Q.
        layers: L, if the states are one of each layer: a learned vector a layer is added to them then.
    """

    def __init__(self, size: int, heads: int, queries: int, layers: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query_QD = nn.Parameter(torch.randn(queries, size) * _SPREAD)
        self.layer_LD = nn.Parameter(torch.randn(layers, size) * _SPREAD) if layers else None
        self.query_norm, self.state_norm, self.inner_norm = (nn.LayerNorm(size) for _ in range(3))
        self.to_query, self.to_key, self.to_value, self.to_output = (
            nn.Linear(size, size, bias=False) for _ in range(4)
        )
        self.widen = nn.Linear(size, 4 * size)
        self.narrow = nn.Linear(2 * size, size)

    def forward(self, state_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """[B, D]; `mask_BS` says which states there are."""
        B = len(state_BSD)
        state_BSD = state_BSD.where(mask_BS.bool().unsqueeze(-1), 0)
        if self.layer_LD is not None:
            state_BSD = state_BSD + self.layer_LD
        state_BSD = self.state_norm(state_BSD)
        query_BHQd = self._by_head(self.to_query(self.query_norm(self.query_QD))).expand(B, -1, -1, -1)
        found_BHQd = scaled_dot_product_attention(
            query_BHQd,
            self._by_head(self.to_key(state_BSD)),
            self._by_head(self.to_value(state_BSD)),
            attn_mask=mask_BS.bool()[:, None, None, :],
        )
        found_BQD = self.to_output(found_BHQd.transpose(1, 2).flatten(2)) + self.query_QD
        inner, gate = self.widen(self.inner_norm(found_BQD)).chunk(2, dim=-1)
        return (self.narrow(inner * gelu(gate)) + found_BQD).mean(1)

    def _by_head(self, each: Tensor) -> Tensor:
        """[..., S, D] to [..., H, S, D / H]."""
        return each.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def projection(kind: str, inputs: int, outputs: int) -> nn.Module:
    """`linear`: a matrix; `mlp`: a matrix, a bias and tanh, as BERT's pooler; `none`: nothing."""
    match kind:
        case "linear":
            return nn.Linear(inputs, outputs, bias=False)
        case "mlp":
            return nn.Sequential(nn.Linear(inputs, outputs), nn.Tanh())
        case _:
            return nn.Identity()


class Pooler(nn.Module):
    """From hidden states to a vector: what an EncodingSpec says of pooling and projection.

    Its weights, if it has any, are drawn from a fixed seed: the same spec starts from the same ones. They are kept and
    computed in float32.

    Args:
        config: of the backbone.
        causal: whether a position sees only what stands before it. Then the last token speaks for a layer, else
            the mean of its tokens.

    Attributes:
        width: dimensions of the vector.
        all_layers: whether it takes the states of every layer, or of the last one alone.
        training_head: a projection behind it in training mode only, of `width` dimensions; no model keeps it.
    """

    def __init__(self, spec: EncodingSpec, config: PretrainedConfig, causal: bool) -> None:
        super().__init__()
        size, layers = config.hidden_size, config.num_hidden_layers
        self.pooling = spec.pooling
        self.all_layers = spec.pooling == "multi_layer_trainable"
        self.width = spec.projection_dimensions or size
        self._of_layer = last if causal else mean
        self.attention: CrossAttention | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if spec.pooling in ("last_layer_trainable", "multi_layer_trainable"):
                heads = math.gcd(size, config.num_attention_heads)
                self.attention = CrossAttention(
                    size, heads, spec.pooling_queries, layers if self.all_layers else None
                )
            self.projection = projection(spec.projection, size, self.width)
        self.training_head: nn.Module | None = None

    def forward(
        self,
        layers: Sequence[Tensor],
        attention_mask_BT: Tensor,
        pooled_BT: Tensor,
        bias_layers: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """[B, width].

        Args:
            layers: states [B, T, D] of each layer, first to last, or of the last one alone.
            attention_mask_BT: 1 for tokens, 0 for padding.
            pooled_BT: the tokens that are taken in, some of every text (`pooled_tokens`).
            bias_layers: states whose vector is taken off that of `layers`.
        """
        vector_BD = self._pool(layers, attention_mask_BT, pooled_BT)
        if bias_layers is not None:
            vector_BD = vector_BD - self._pool(bias_layers, attention_mask_BT, pooled_BT)
        vector_BD = self.projection(vector_BD)
        if self.training_head is not None and self.training:
            vector_BD = self.training_head(vector_BD)
        return vector_BD

    def _pool(self, layers: Sequence[Tensor], attention_mask_BT: Tensor, pooled_BT: Tensor) -> Tensor:
        hidden_BTD = layers[-1].float()
        if self.attention is not None and self.all_layers:
            state_BLD = torch.stack(
                [self._of_layer(each.float(), attention_mask_BT) for each in layers], dim=1
            )
            return self.attention(state_BLD, state_BLD.new_ones(state_BLD.shape[:2]))
        if self.attention is not None:
            return self.attention(hidden_BTD, pooled_BT)
        if self.pooling == "weighted_mean":
            return weighted_mean(hidden_BTD, pooled_BT, attention_mask_BT.cumsum(1))
        return AT_TOKENS[self.pooling](hidden_BTD, pooled_BT)


def pooled_tokens(
    spec: EncodingSpec,
    input_ids_BT: Tensor,
    template_BT: Tensor,
    attention_mask_BT: Tensor,
    mask_token: int | None,
) -> Tensor:
    """Which tokens a pooling takes in, bool [B, T]; of a text at least one.

    Without a token of its own a text is pooled over all it has; a text without a marked template has its prompt at its
    last token.

    Args:
        template_BT: bool, the tokens of the template.
        mask_token: id of the tokenizer's mask token, if it has one.
    """
    real_BT = attention_mask_BT.bool()
    if spec.pooling == "prompt":
        template_BT = template_BT & real_BT
        mask_BT = template_BT & (input_ids_BT == (-1 if mask_token is None else mask_token))
        prompt_BT = mask_BT.where(mask_BT.any(1, keepdim=True), template_BT)
        return prompt_BT.where(prompt_BT.any(1, keepdim=True), real_BT)
    if spec.pool_template:
        return real_BT
    own_BT = real_BT & ~template_BT
    return own_BT.where(own_BT.any(1, keepdim=True), real_BT)
