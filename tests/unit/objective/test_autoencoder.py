"""RetroMAE: what is masked, who sees whom, and that the decoder leans on the sentence vector."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.model.embedder import Embedder
from components.objective.autoencoder import AutoEncoder, Decoder, corrupt

SPECIAL = np.array([1, 2, 3])


@given(st.lists(st.integers(-60, 60), min_size=1, max_size=80), st.floats(0.05, 0.95), st.integers(0, 9))
def test_so_many_of_the_text_s_own_tokens_are_masked(tokens, share, seed):
    text = np.array(tokens)
    found = corrupt(text, share, SPECIAL, 3, 61, np.random.default_rng(seed))
    own = (text >= 0) & ~np.isin(text, SPECIAL)
    assert found.told.tolist() == own.tolist()
    assert not (found.masked & ~own).any()
    assert found.masked.sum() == (max(1, round(share * own.sum())) if own.any() else 0)
    unseen = ~found.masked
    assert (found.ids[unseen] == np.where(text < 0, ~text, text)[unseen]).all()


def test_four_fifths_become_the_mask_token():
    text = np.full(20_000, 50)
    shown = corrupt(text, 0.5, SPECIAL, 3, 1000, np.random.default_rng(0)).ids
    masked = (shown == 3).mean() / 0.5
    random = ((shown != 3) & (shown != 50)).mean() / 0.5
    assert masked == pytest.approx(0.8, abs=0.02)
    assert random == pytest.approx(0.1, abs=0.02)


def test_a_position_is_told_by_what_it_sees():
    torch.manual_seed(0)
    decoder = Decoder(16, 4)
    query, inputs = torch.randn(1, 5, 16), torch.randn(1, 6, 16)
    visible = torch.rand(1, 5, 6) > 0.5
    visible[:, :, 0] = True
    plain = decoder(query, inputs, visible)
    for place in range(6):
        changed = inputs.clone()
        changed[:, place] += 1
        differs = (decoder(query, changed, visible) - plain).abs().amax(2)[0] > 1e-5
        assert differs.tolist() == visible[0, :, place].tolist()


def test_the_decoder_comes_to_lean_on_the_vector(tiny_encoder: Path):
    """After some steps a text is rebuilt better from its own vector than from another text's."""
    embedder = Embedder.load(tiny_encoder)
    embedder.tokenizer.mask_token = "[UNK]"
    embedder.spec = replace(embedder.spec, pooling="cls")
    embedder = Embedder(embedder.backbone, embedder.spec, embedder.tokenizer)
    torch.manual_seed(0)
    model = AutoEncoder(embedder)
    rng = np.random.default_rng(0)
    texts = [np.array([2, *rng.choice(np.arange(4 + 10 * group, 14 + 10 * group), 12), 3])
             for group in range(16)]  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(60):
        seen = [corrupt(text, 0.3, np.array([1, 2, 3]), 1, 204, rng) for text in texts]
        token_BT, mask_BT = embedder.pad([text.tolist() for text in texts])
        shown_BT = torch.tensor(np.stack([text.ids for text in seen]))
        masked_BT, told_BT = (
            torch.tensor(np.stack([getattr(text, name) for text in seen])) for name in ("masked", "told")
        )
        encoder, decoder = model(token_BT, shown_BT, masked_BT, told_BT, mask_BT, 0.5)
        loss = encoder / masked_BT.sum() + decoder / told_BT.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])
    with torch.no_grad():
        vector_BD = embedder.pooling(embedder.states(token_BT, mask_BT), mask_BT, mask_BT.bool())
        own, other = (
            float(
                model._word_loss(model.rebuild(vectors, token_BT, mask_BT, 0.5)[told_BT], token_BT[told_BT])
            )
            for vectors in (vector_BD, vector_BD.roll(1, 0))
        )
    assert own < 0.95 * other
