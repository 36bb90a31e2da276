"""A decoder as an embedding model: causal, the last token, the end token appended by the tokenizer itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_decoder import END
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

TEXTS = ["w5 w6 w7", "", "w9", " ".join(f"w{i}" for i in range(40)), "w8 w8 w10 w11 w12 w13"]


def test_vector_is_the_final_state_at_the_end_token(decoder: Embedder, language_model):
    """Against the language model itself: second layer, final norm, one text at a time, nothing padded."""
    peer = AutoModelForCausalLM.from_pretrained(language_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    for text in TEXTS:
        words = tokenizer(f"w1 w3 w4 w2 {text}").input_ids[: decoder.spec.query_length - 1]
        ids = torch.tensor([[*words, tokenizer.convert_tokens_to_ids(END)]])
        with torch.no_grad():
            states = peer(ids, output_hidden_states=True).hidden_states
            expected = peer.model.norm(states[2][0, -1])
        np.testing.assert_allclose(
            decoder.encode([text], "query")[0], expected / expected.norm(), atol=1e-5, err_msg=text
        )


def test_sentence_transformers_and_transformers_open_the_directory(decoder: Embedder, decoder_directory):
    peer = SentenceTransformer(str(decoder_directory), device="cpu")
    np.testing.assert_allclose(
        peer.encode(TEXTS, prompt_name="document"), decoder.encode(TEXTS, "document"), atol=1e-5
    )
    short = [TEXTS[0], TEXTS[2]]  # one length for both sides is all that sentence-transformers knows
    np.testing.assert_allclose(
        peer.encode(short, prompt_name="query"), decoder.encode(short, "query"), atol=1e-5
    )
    assert AutoTokenizer.from_pretrained(decoder_directory)("w5").input_ids[-1] == 0
    backbone = AutoModel.from_pretrained(decoder_directory)
    assert (type(backbone).__name__, backbone.config.num_hidden_layers) == ("LlamaModel", 2)


def test_later_tokens_do_not_change_earlier_states(decoder: Embedder):
    ids_BT, mask_BT = decoder.pad([[5, 6, 7, 8, 9], [5, 6, 7, 20, 21]])
    with torch.no_grad():
        hidden_BTD = decoder.backbone(ids_BT, attention_mask=mask_BT).last_hidden_state
    torch.testing.assert_close(hidden_BTD[0, :3], hidden_BTD[1, :3])
    assert not torch.allclose(hidden_BTD[0, 3:], hidden_BTD[1, 3:])


def test_padding_side_and_batch_do_not_matter(decoder: Embedder):
    right = decoder.encode(TEXTS, "document", tokens_per_batch=10_000)
    left_padded = Embedder(decoder.backbone, replace(decoder.spec, padding_side="left"), decoder.tokenizer)
    alone = np.concatenate([decoder.encode([text], "document") for text in TEXTS])
    np.testing.assert_allclose(
        left_padded.encode(TEXTS, "document", tokens_per_batch=10_000), right, atol=1e-5
    )
    np.testing.assert_allclose(alone, right, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_left_padding_with_every_pooling(decoder: Embedder, pooling):
    vectors = [
        Embedder(
            decoder.backbone, replace(decoder.spec, pooling=pooling, padding_side=side), decoder.tokenizer
        ).encode(TEXTS, "document", tokens_per_batch=10_000)
        for side in ("left", "right")
    ]
    np.testing.assert_allclose(*vectors, atol=1e-5)


def test_cut_keeps_the_end_token_and_the_instruction_is_the_requests(decoder: Embedder):
    assert [ids[-1] for ids in decoder.tokenize(TEXTS, "query")] == [0] * len(TEXTS)
    assert max(map(len, decoder.tokenize(TEXTS, "query"))) == 12
    assert max(map(len, decoder.tokenize(TEXTS, "document"))) == 16
    own, other = decoder.encode(["w5"], "query"), decoder.encode(["w5"], "query", instruction="w40")
    assert not np.allclose(own, other)
    assert decoder.tokenize(["w5"], "query", instruction="w40") == [[3, 42, 4, 7, 0]]


def test_layers_beyond_the_backbone_are_refused(language_model, tmp_path):
    with pytest.raises(ValueError, match="layers must be between 1 and 3"):
        import_model(
            model=str(language_model), layers=4, spec={}, output=Folder(str(tmp_path)), monitor=Silent()
        )


def test_import_keeps_what_an_imported_model_says(decoder_directory, decoder: Embedder, tmp_path):
    import_model(
        model=str(decoder_directory),
        spec={"document_length": 20},
        output=Folder(str(tmp_path)),
        monitor=Silent(),
    )
    assert Embedder.load(tmp_path).spec == replace(decoder.spec, document_length=20)


def test_blocks_are_the_layers(decoder: Embedder):
    assert [type(block).__name__ for block in decoder.blocks()] == ["LlamaDecoderLayer"] * 2
