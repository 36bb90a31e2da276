"""Whether the files of a reranker directory say one thing of how a query and a document become a text.

What `agreement.py` is to an embedder: a prompt, a length or an answer that is changed in one file and not in the
others makes two programs give different scores from one directory without a word.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from components.model.agreement import GOLDEN_FILE, read_json
from components.model.prompt import RerankerSpec, template_fields
from components.model.reranker_file import RERANKER_FILE, PairSpec

ANSWERS = {"yes": "true_token_id", "no": "false_token_id"}
"""How sentence-transformers' LogitScore calls the tokens that answer."""
_TOKENIZER = "the tokenizer's files"
_TEMPLATE = "the chat template"


def check_reranker_agreement(
    directory: str | Path, told: PairSpec, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Compare what `reranker.json` says with the golden scores' record and with what other programs read.

    Files that are not there are not compared.

    Raises:
        ValueError: naming the field, its two values and where they stand.
    """
    root = Path(directory)
    ours = asdict(told.prompt) if told.prompt else {"length": told.length}
    for name, value, file in _said(root, told.prompt, tokenizer):
        if ours[name] is not None and ours[name] != value:
            raise ValueError(
                f"{name} is {ours[name]!r} in {root / RERANKER_FILE} and {value!r} in {file}; scores would differ "
                "from those that the model was exported with: undo the change, or bring the model in anew with "
                "embedloom import"
            )


def told_by_others(directory: str | Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Fields of a decoder's prompt that its files tell without a `reranker.json`: the chat template, and the answers
    of sentence-transformers' LogitScore."""
    answers = {name: str(tokenizer.decode([number])) for name, number in answer_ids(Path(directory)).items()}
    return (template_fields(tokenizer) or {}) | answers


def answer_ids(directory: Path) -> dict[str, int]:
    """The ids of the tokens for `yes` and `no` that sentence-transformers' files name; none where they do not."""
    for module in read_json(directory / "modules.json"):
        if module["type"].endswith(".LogitScore"):
            config = read_json(directory / module["path"] / "config.json")
            return {answer: config[name] for answer, name in ANSWERS.items() if config.get(name) is not None}
    return {}


def _said(
    root: Path, prompt: RerankerSpec | None, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[str, Any, str]]:
    """Field, value and the file that says so."""
    recorded = read_json(root / GOLDEN_FILE).get("spec", {})
    for name, value in ((recorded.get("prompt") if prompt else recorded) or {}).items():
        if name not in ("padding_side", "prompt"):
            yield name, value, GOLDEN_FILE
    yield "length", tokenizer.model_max_length, _TOKENIZER
    if prompt is None:
        return
    fields = template_fields(tokenizer) or {}
    if fields and fields["prefix"] + fields["body"] == prompt.prefix + prompt.body:
        # Where the one ends and the other begins, a template does not say.
        del fields["prefix"], fields["body"]
    for name, value in fields.items():
        yield name, value, _TEMPLATE
    recorded = read_json(root / RERANKER_FILE).get("answer_ids", {})
    for ids, file in ((recorded, f"answer_ids of {RERANKER_FILE}"), (answer_ids(root), "LogitScore")):
        for answer, number in ids.items():
            if tokenizer.encode(getattr(prompt, answer), add_special_tokens=False) != [number]:
                yield answer, tokenizer.decode([number]), file
