"""A reranker on disk: a directory that transformers, vLLM and sentence-transformers' CrossEncoder open as it is.

Beside their files stand `reranker.json` (how it is read, digest of the weights, scorer id) and `golden.json` (queries
and documents with their scores, computed from what was written).
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from components.model.agreement import GOLDEN_FILE
from components.model.export import save_tokenizer, save_weights, weights_digest, write_json
from components.model.pair_tokens import PromptTokens
from components.model.prompt import RerankerSpec, chat_template
from components.model.reranker import Reranker, YesNoReranker, load_pair_tokens, load_reranker
from components.model.reranker_agreement import ANSWERS
from components.model.reranker_file import RERANKER_FILE, PairSpec, read_reranker_spec, scorer_id

_GOLDEN_PAIRS = [
    ("how to invert a matrix", "Compute the (multiplicative) inverse of a matrix."),
    ("how to invert a matrix", "Return the indices of the elements that are non-zero."),
    ("wie liest man eine Datei zeilenweise?", "for line in open(path): print(line)"),
    ("", "A document without a query."),
    ("a query without a document", ""),
    ("what is a word", "word " * 2000),
]
"""Both answers, another language, a text that is empty, and one that is cut."""
_ST_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_ST_LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


def save_reranker(
    directory: str | Path,
    config: PretrainedConfig,
    state_dict: Mapping[str, Tensor],
    spec: PairSpec,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write a reranker directory from a full state dict of the model with its head.

    Golden scores are computed in float32 from the written files, so they also prove that it loads.

    Args:
        directory: made if absent.
        state_dict: by name, of one dtype, none sharded; what is tied to another tensor may stand in it or not.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    save_weights(target, config, _without_tied(config, state_dict))
    tokenizer = deepcopy(tokenizer)
    if spec.prompt is not None:
        tokenizer.chat_template = chat_template(spec.prompt)
        tokenizer.truncation_side = "right"
    length = spec.prompt.length if spec.prompt else spec.length
    save_tokenizer(target, tokenizer, length, spec.prompt.padding_side if spec.prompt else "right")
    write_json(target / RERANKER_FILE, {"spec": spec.to_json()})
    seal_reranker(target)


def seal_reranker(directory: str | Path) -> None:
    """Say in a directory with its weights and its spec what they come to: digest, scorer id, golden scores.

    sentence-transformers' files are written too, as they follow from the spec. Golden scores are computed in float32
    from the files.

    Raises:
        ValueError: the directory holds no reranker.
    """
    target = Path(directory)
    (target / GOLDEN_FILE).unlink(missing_ok=True)
    spec, digest = read_reranker_spec(target), weights_digest(target)
    tokens = load_pair_tokens(target)
    written = {
        "spec": spec.to_json(),
        "weights_digest": digest,
        "scorer_id": scorer_id(digest, tokens.digest()),
    }
    if isinstance(tokens, PromptTokens):
        written["answer_ids"] = {"yes": tokens.yes_id, "no": tokens.no_id}
    write_json(target / RERANKER_FILE, written)
    reranker = load_reranker(target)
    _save_sentence_transformers(target, reranker, spec.prompt)
    write_json(target / GOLDEN_FILE, _golden(reranker))


def export_classifier(source: str | Path, target: str | Path) -> None:
    """Write a language-model reranker as a classifier with one output, W[yes] - W[no] of its head.

    The score is the sigmoid of that output at the last token: the same as by the two logits. transformers and vLLM
    open it as a sequence classifier and need no word on which tokens answer.

    Raises:
        ValueError: `source` holds no reranker of that kind, or one whose head has a bias.
    """
    reranker = load_reranker(source, dtype=_dtype(source))
    if not isinstance(reranker, YesNoReranker):
        raise ValueError(f"{source} holds no language model that says yes or no")
    head = reranker.model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"the head of {source} has a bias, which a classifier with one output cannot carry")
    config = deepcopy(reranker.model.config)
    language_model = type(reranker.model).__name__
    config.architectures = [language_model.removesuffix("ForCausalLM") + "ForSequenceClassification"]
    config.num_labels = 1
    config.tie_word_embeddings = False
    config.pad_token_id = reranker.tokenizer.pad_token_id or 0
    # By shape alone: says whether transformers has such a classifier, and how it calls its tensors.
    with torch.device("meta"):
        names = AutoModelForSequenceClassification.from_config(config).state_dict().keys()
    row_D = head.weight[reranker.yes_id].float() - head.weight[reranker.no_id].float()
    state = {name: tensor for name, tensor in reranker.model.state_dict().items() if name in names}
    state["score.weight"] = row_D[None].to(head.weight.dtype)
    if state.keys() != names:
        raise ValueError(f"{config.architectures[0]} lacks {sorted(names - state.keys())}")
    save_reranker(target, config, state, PairSpec(prompt=reranker.spec), reranker.tokenizer)


def check_golden_scores(reranker: Reranker, directory: str | Path, tolerance: float = 1e-3) -> float:
    """Compare what a reranker computes with the scores that were recorded when the directory was written.

    Args:
        reranker: loaded from the directory, in any dtype.
        tolerance: greatest allowed difference of scores. float32 stays below 1e-5.

    Returns: the greatest difference found.

    Raises:
        ValueError: it is above the tolerance, or nothing was recorded.
    """
    path = Path(directory) / GOLDEN_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no {GOLDEN_FILE}: its scores cannot be checked")
    rows = json.loads(path.read_text("utf-8"))["rows"]
    found_N = reranker.score(
        [row["query"] for row in rows], [row["document"] for row in rows], [None] * len(rows)
    )
    difference_N = np.abs(found_N - np.array([row["score"] for row in rows]))
    at = int(difference_N.argmax())
    if not difference_N[at] <= tolerance:
        raise ValueError(
            f"query {rows[at]['query']!r} with document {rows[at]['document'][:40]!r} does not get the score "
            f"recorded in {path}: {found_N[at]:.6f}, not {rows[at]['score']:.6f}"
        )
    return float(difference_N[at])


def _dtype(directory: str | Path) -> torch.dtype:
    return AutoConfig.from_pretrained(str(directory)).dtype or torch.float32


def _without_tied(config: PretrainedConfig, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A head that is tied to the embedding table is the same tensor: transformers writes it once."""
    if not getattr(config, "tie_word_embeddings", False):
        return state_dict
    return {name: tensor for name, tensor in state_dict.items() if name != "lm_head.weight"}


def _save_sentence_transformers(target: Path, reranker: Reranker, prompt: RerankerSpec | None) -> None:
    """The files by which CrossEncoder formats, cuts and scores as the spec says."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": _ST_TRANSFORMER}]
    task, output = "sequence-classification", "scores"
    if isinstance(reranker, YesNoReranker):
        task, output = "text-generation", "causal_logits"
        modules.append({"idx": 1, "name": "1", "path": "1_LogitScore", "type": _ST_LOGIT_SCORE})
        answers = {ANSWERS["yes"]: reranker.yes_id, ANSWERS["no"]: reranker.no_id}
        write_json(target / "1_LogitScore" / "config.json", answers)
    transformer: dict[str, Any] = {"transformer_task": task}
    if prompt is not None:
        logits = {"method": "forward", "method_output_name": "logits"}
        transformer["modality_config"] = {"text": logits, "message": logits | {"format": "flat"}}
        transformer["module_output_name"] = output
    write_json(target / "modules.json", modules)
    write_json(target / "sentence_bert_config.json", transformer)
    write_json(
        target / "config_sentence_transformers.json",
        {
            "model_type": "CrossEncoder",
            "prompts": {},
            "default_prompt_name": None,
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
        },
    )


def _golden(reranker: Reranker) -> dict[str, Any]:
    queries, documents = zip(*_GOLDEN_PAIRS, strict=True)
    scores = reranker.score(queries, documents, [None] * len(queries))
    return {
        "spec": reranker.pair_spec.to_json(),
        "rows": [
            {"query": query, "document": document, "score": round(float(score), 8)}
            for query, document, score in zip(queries, documents, scores, strict=True)
        ],
    }
