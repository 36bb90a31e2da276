"""RetroMAE (arXiv 2205.12035): an encoder is pre-trained by having its texts rebuilt from their vectors.

The encoder sees a text with some of its tokens masked; it is trained to tell those (L_enc), and its vector is handed
to a decoder of one layer, which tells every token of the text from that vector and from such of the other
tokens as its position sees (L_dec, Eq. 4 to 7, the enhanced decoding). As each position sees other tokens, the
decoder cannot do without the vector. Decoder and heads are of the stage alone; no model keeps them.

Departures from the published code: single tokens are masked, not whole words; the sentence vector is whatever the
model's pooling gives; it stands before the text in the decoder, not in place of its first token.

Shapes: B texts, T positions, N tokens, D dimensions, V vocabulary, H heads.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from components.model.backbone import positions_from_mask
from components.model.embedder import Embedder
from components.model.framing import split_marks

_LONGEST = 8192
_PIECE = 256
"""Tokens whose logits over the vocabulary are held at a time."""
_REPLACED, _LEFT = 0.1, 0.1
"""Of the masked tokens these shares become a random token, or stay (BERT, arXiv 1810.04805, 3.1)."""


@dataclass(frozen=True)
class Corrupted:
    """A text as the encoder sees it.

    Attributes:
        ids: int64 [T].
        masked: bool [T], the tokens that it is trained to tell.
        told: bool [T], those that the decoder is: all but special tokens and those of a template.
    """

    ids: np.ndarray
    masked: np.ndarray
    told: np.ndarray


def corrupt(
    tokens: np.ndarray,
    share: float,
    special: np.ndarray,
    mask_token: int,
    vocabulary: int,
    rng: np.random.Generator,
) -> Corrupted:
    """Mask a share of a text's tokens, rounded, one at least if it has any.

    Args:
        tokens: int [T], those of a template marked (`components.model.framing`).
        special: ids that are never masked.
        vocabulary: random tokens are below it.
    """
    ids = np.where(tokens < 0, ~tokens, tokens).astype(np.int64)
    told = (tokens >= 0) & ~np.isin(ids, special)
    places = np.flatnonzero(told)
    masked = np.zeros(len(ids), dtype=bool)
    masked[rng.permutation(places)[: max(1, round(share * len(places)))]] = True
    fate = rng.random(len(ids))
    random = rng.integers(0, vocabulary, len(ids))
    shown = np.where(fate < 1 - _REPLACED - _LEFT, mask_token, np.where(fate < 1 - _LEFT, random, ids))
    return Corrupted(np.where(masked, shown, ids), masked, told)


class Decoder(nn.Module):
    """One transformer layer whose queries are not its inputs, normalised as BERT's are."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_query, self.to_key, self.to_value, self.to_output = (nn.Linear(size, size) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))
        self.attention_norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)

    def forward(self, query_BTD: Tensor, input_BSD: Tensor, visible_BTS: Tensor) -> Tensor:
        """[B, T, D]; every position sees some input."""
        found_BHTd = scaled_dot_product_attention(
            self._by_head(self.to_query(query_BTD)),
            self._by_head(self.to_key(input_BSD)),
            self._by_head(self.to_value(input_BSD)),
            attn_mask=visible_BTS[:, None],
        )
        query_BTD = self.attention_norm(query_BTD + self.to_output(found_BHTd.transpose(1, 2).flatten(2)))
        return self.feed_norm(query_BTD + self.feed(query_BTD))

    def _by_head(self, each: Tensor) -> Tensor:
        return each.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AutoEncoder(nn.Module):
    """An embedder with what rebuilds its texts.

    Raises:
        ValueError: the tokenizer has no mask token, or the vector is not as wide as the backbone.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        config = embedder.backbone.config
        size = config.hidden_size
        if embedder.tokenizer.mask_token_id is None:
            raise ValueError("reconstruction masks tokens, and the model's tokenizer has no mask token")
        if embedder.pooling.width != size:
            raise ValueError(
                f"reconstruction takes a vector as wide as the backbone, {size}; the projection gives "
                f"{embedder.pooling.width}"
            )
        self.embedder = embedder
        self.longest = min(getattr(config, "max_position_embeddings", None) or _LONGEST, _LONGEST)
        self.position_TD = nn.Parameter(torch.randn(self.longest, size) * 0.02)
        self.input_norm = nn.LayerNorm(size)
        self.decoder = Decoder(size, config.num_attention_heads)
        self.before_words = nn.Sequential(nn.Linear(size, size), nn.GELU(), nn.LayerNorm(size))
        self.word_bias_V = nn.Parameter(torch.zeros(config.vocab_size))
        self.to(embedder.device)

    def forward(
        self,
        token_BT: Tensor,
        shown_BT: Tensor,
        masked_BT: Tensor,
        told_BT: Tensor,
        attention_mask_BT: Tensor,
        decoder_masked: float,
    ) -> tuple[Tensor, Tensor]:
        """Sums of the encoder's loss over masked tokens, and of the decoder's over all it is told to tell.

        Args:
            token_BT, shown_BT: the text, and what the encoder sees of it (`corrupt`).
            decoder_masked: share of the other tokens that a position of the decoder does not see.
        """
        ids_BT, template_BT = split_marks(token_BT)
        layers = self.embedder.states(shown_BT, attention_mask_BT)
        pooled_BT = self.embedder.pooled_tokens(ids_BT, template_BT, attention_mask_BT)
        vector_BD = self.embedder.pooling(layers, attention_mask_BT, pooled_BT)
        rebuilt_BTD = self.rebuild(vector_BD, ids_BT, attention_mask_BT, decoder_masked)
        masked_BT, told_BT = masked_BT.bool(), told_BT.bool()
        return (
            self._word_loss(layers[-1][masked_BT], ids_BT[masked_BT]),
            self._word_loss(rebuilt_BTD[told_BT], ids_BT[told_BT]),
        )

    def rebuild(
        self, vector_BD: Tensor, ids_BT: Tensor, attention_mask_BT: Tensor, decoder_masked: float
    ) -> Tensor:
        """The decoder's states [B, T, D]: of each position out of the vector, its place and what it sees."""
        B, T = ids_BT.shape
        place_BT = positions_from_mask(attention_mask_BT).clamp(max=self.longest - 1)
        place_BTD = self.position_TD[place_BT]
        vector_B1D = vector_BD.to(place_BTD.dtype)[:, None]
        words_BTD = self.embedder.backbone.get_input_embeddings()(ids_BT)
        input_BSD = torch.cat([vector_B1D, self.input_norm(words_BTD + place_BTD)], dim=1)
        seen_BTT = torch.rand(B, T, T, device=ids_BT.device) >= decoder_masked
        seen_BTT &= attention_mask_BT.bool()[:, None] & ~torch.eye(T, dtype=torch.bool, device=ids_BT.device)
        visible_BTS = torch.cat([seen_BTT.new_ones(B, T, 1), seen_BTT], dim=2)
        return self.decoder(vector_B1D + place_BTD, input_BSD, visible_BTS)

    def _word_loss(self, state_ND: Tensor, word_N: Tensor) -> Tensor:
        """Sum of the cross-entropies of words, the logits of few of them at a time, again in backward."""
        words_VD = cast(Tensor, self.embedder.backbone.get_input_embeddings().weight)

        def of_piece(state_ND: Tensor, word_N: Tensor) -> Tensor:
            logit_NV = linear(self.before_words(state_ND), words_VD, self.word_bias_V)
            return cross_entropy(logit_NV.float(), word_N, reduction="sum")

        pieces = zip(state_ND.split(_PIECE), word_N.split(_PIECE), strict=True)
        losses = [checkpoint(of_piece, *piece, use_reentrant=False) for piece in pieces if len(piece[1])]
        return torch.stack(losses).sum() if losses else state_ND.sum() * 0.0
