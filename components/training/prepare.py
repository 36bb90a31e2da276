"""The model as a stage trains it: which weights move, dropout, attention, what backward computes again."""

from typing import Literal

from torch import nn

from components.model.backbone import PLAIN_ATTENTION
from components.model.embedder import Embedder
from components.model.pooling import projection
from components.model.reranker import CrossEncoder, Reranker
from components.model.spec import Projection
from components.training.attention import CPU_ATTENTION
from components.training.dropout import FastDropout
from components.training.lora import Lora, add_adapters

Trainable = Literal["all", "without_embeddings"]
"""`without_embeddings` freezes the tables that are looked up: of tokens, and of positions where there are any."""


def prepare_model(
    model: Embedder | Reranker,
    trainable: Trainable,
    dropout: float | None,
    activation_checkpointing: bool,
    lora: Lora | None = None,
) -> None:
    """Set a model up for training, in place, before it is sharded.

    Args:
        dropout: probability, attention included; None leaves what the backbone's config says.
        activation_checkpointing: keep of every block's graph its input alone, and compute the block again when
            backward comes to it.
        lora: adapters, which are then all that is trained of the backbone, but for a cross-encoder's head, which
            may be new; drawn from torch's generator.
    """
    model.train()
    backbone = model.backbone
    if getattr(backbone, "pooler", None) is not None:
        # BERT's head, which no vector passes: it would have neither a gradient nor optimizer state to resume.
        backbone.pooler.requires_grad_(False)
    if trainable == "without_embeddings":
        for module in backbone.modules():
            if isinstance(module, nn.Embedding):
                module.requires_grad_(False)
    if activation_checkpointing:
        backbone.gradient_checkpointing_enable()
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = dropout  # type: ignore[assignment]
    if lora is not None:
        add_adapters(backbone, lora)
        if isinstance(model, CrossEncoder):
            for parameter in model.head():
                parameter.requires_grad_(True)
    if model.device.type == "cpu":
        plain = backbone.config.model_type in PLAIN_ATTENTION
        backbone.set_attn_implementation(CPU_ATTENTION if plain else "eager")
        _use_fast_dropout(backbone)


def add_training_parts(embedder: Embedder, training_head: Projection, template_denoising: bool) -> None:
    """Give an embedder what stands behind its vector while it is trained and in no kept model, in place.

    Args:
        training_head: a projection behind the vector, as wide (SimCSE); drawn from torch's generator.
        template_denoising: take the template's own vector off (PromptBERT).

    Raises:
        ValueError: template denoising without a pooling at the prompt.
    """
    if template_denoising and embedder.spec.pooling != "prompt":
        raise ValueError(
            f"template_denoising takes off the vector of a template's prompt; pooling is {embedder.spec.pooling!r}"
        )
    embedder.denoises_template = template_denoising
    if training_head != "none":
        wide = embedder.pooling.width
        embedder.pooling.training_head = projection(training_head, wide, wide).to(embedder.device)


def _use_fast_dropout(backbone: nn.Module) -> None:
    for parent in list(backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, FastDropout(child.p))
