"""Who sees whom: whether a later token changes an earlier position, family by family."""

import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_backbones import DECODERS, ENCODERS, make_backbone, tiny_tokenizer, write_backbone
from transformers import AutoModel

from components.model.backbone import load_backbone
from components.model.embedder import Embedder
from components.model.source import import_model
from components.model.spec import Attention, EncodingSpec
from components.monitor import Silent
from components.storage import Folder
from components.training.prepare import prepare_model


def imported(tmp_path: Path, family: str, **spec: object) -> Embedder:
    directory = write_backbone(tmp_path / family, family)
    values = {"query_length": 32, "document_length": 32} | spec
    import_model(model=str(directory), spec=values, output=Folder(str(tmp_path / "model")), monitor=Silent())
    return Embedder.load(tmp_path / "model")


def loaded(directory: Path, family: str, attention: Attention) -> Embedder:
    """A backbone from disk and its config. transformers would read these words by the family's own tokenizer."""
    make_backbone(family).save_pretrained(directory)
    spec = EncodingSpec(
        query_length=32, document_length=32, dimensions=32, pooling="last", attention=attention
    )
    Embedder(load_backbone(directory), spec, tiny_tokenizer()).backbone.save_pretrained(directory)
    return Embedder(load_backbone(directory), spec, tiny_tokenizer())


def changes(embedder: Embedder, padded: bool) -> tuple[bool, bool]:
    """Whether another last token changes the first position, and another first token the last position.

    Args:
        padded: beside a longer text, so that there is a mask; without one a kernel goes by flags alone.
    """

    def states(*texts: list[int]) -> torch.Tensor:
        longer = [[9] * 9] if padded else []
        ids_BT, mask_BT = embedder.pad([*texts, *longer])
        with torch.no_grad():
            return embedder.states(ids_BT, mask_BT)[-1]

    plain = states([5, 6, 7, 8, 9])[0]
    later = states([5, 6, 7, 8, 20])[0]
    earlier = states([20, 6, 7, 8, 9])[0]
    assert torch.allclose(plain[:1], later[:1], atol=1e-6) or (plain[0] - later[0]).abs().max() > 1e-4
    return not torch.allclose(plain[0], later[0], atol=1e-6), not torch.allclose(
        plain[4], earlier[4], atol=1e-6
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", DECODERS)
def test_decoders_see_what_the_spec_says(tmp_path, family, padded):
    assert changes(loaded(tmp_path / "own", family, "own"), padded) == (False, True)
    assert changes(loaded(tmp_path / "causal", family, "causal"), padded) == (False, True)
    both = loaded(tmp_path / "both", family, "bidirectional")
    assert changes(both, padded) == (True, True)
    # as it is trained on a CPU, with attention of another kind
    prepare_model(both, "all", None, activation_checkpointing=False)
    both.eval()
    assert changes(both, padded) == (True, True)


@pytest.mark.parametrize("family", ENCODERS)
def test_encoders_see_everything(tmp_path, family):
    for attention in ("own", "bidirectional"):
        embedder = imported(tmp_path / attention, family, attention=attention)
        assert changes(embedder, False) == changes(embedder, True) == (True, True)
    with pytest.raises(ValueError, match="attends both ways"):
        imported(tmp_path / "causal", family, attention="causal")


def test_attention_can_be_switched_back(tmp_path):
    imported(tmp_path / "first", "llama", attention="bidirectional")
    import_model(
        model=str(tmp_path / "first" / "model"),
        spec={"attention": "causal"},
        output=Folder(str(tmp_path / "second")),
        monitor=Silent(),
    )
    assert changes(Embedder.load(tmp_path / "second"), False) == (False, True)


def test_a_bidirectional_directory_opens_elsewhere_with_its_attention(tmp_path):
    """Beside a longer text: transformers builds no mask for texts of one length, and its kernel is causal then."""
    embedder = imported(tmp_path, "llama", attention="bidirectional")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["is_causal"] is False
    peer = AutoModel.from_pretrained(tmp_path / "model")
    ids_BT, mask_BT = embedder.pad([[5, 6, 7, 8], [9] * 9])
    with torch.no_grad():
        theirs = peer(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        ours = embedder.states(ids_BT, mask_BT)[-1]
    torch.testing.assert_close(theirs[0, :4], ours[0, :4])


def test_the_encoder_of_t5_is_the_backbone(tmp_path):
    embedder = imported(tmp_path, "t5")
    assert type(embedder.backbone).__name__ == "T5EncoderModel"
    assert embedder.spec.pooling == "mean"
    peer = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10"]
    torch.testing.assert_close(
        torch.from_numpy(peer.encode(texts)),
        torch.from_numpy(embedder.encode(texts, "document")),
        atol=1e-5,
        rtol=0,
    )
