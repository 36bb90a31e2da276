"""The template's own vector, against the template encoded by itself at the same positions (PromptBERT, 3.3)."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_model import write_tiny_model

from components.model.embedder import Embedder
from components.training.prepare import add_training_parts, prepare_model

TEMPLATE = "w1 w2 {text} w3 w5 w4"


def test_what_is_taken_off_is_the_template_alone(tmp_path: Path) -> None:
    plain = Embedder.load(write_tiny_model(tmp_path / "model"))
    plain.tokenizer.mask_token = "w5"
    spec = replace(
        plain.spec, pooling="prompt", query_template=TEMPLATE, document_template=TEMPLATE, normalize=False
    )
    embedder = Embedder(plain.backbone, spec, plain.tokenizer)
    prepare_model(embedder, "all", None, False)
    add_training_parts(embedder, "none", template_denoising=True)
    embedder.backbone.set_attn_implementation("eager")
    texts = embedder.tokenize(["w9 w10 w11", "w12", "w20 w21 w22 w23 w24"], "query")
    for padding_side in ("left", "right"):
        embedder.spec = replace(spec, padding_side=padding_side)
        with torch.no_grad():
            found = embedder(*embedder.pad(texts))
            for tokens, vector in zip(texts, found, strict=True):
                ids = torch.tensor([~token if token < 0 else token for token in tokens])
                whole = embedder.backbone(ids[None]).last_hidden_state[0, -3]
                # [CLS] w1 w2 and w3 w5 w4 [SEP], where these stand around the text
                places = torch.tensor([0, 1, 2, *range(len(ids) - 4, len(ids))])
                alone = embedder.backbone(ids[places][None], position_ids=places[None]).last_hidden_state[
                    0, -3
                ]
                torch.testing.assert_close(vector, whole - alone, atol=1e-5, rtol=1e-4)
        embedder.eval()
        with torch.no_grad():
            torch.testing.assert_close(embedder(*embedder.pad(texts[:1]))[0], plainly(embedder, texts[0]))
        embedder.train()


def plainly(embedder: Embedder, tokens: list[int]) -> torch.Tensor:
    ids = torch.tensor([[~token if token < 0 else token for token in tokens]])
    return embedder.backbone(ids).last_hidden_state[0, -3]
