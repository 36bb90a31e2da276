"""Whether the files of a model directory say one thing of how a text becomes a vector.

A pooling, a prompt or a length that is changed in one of them and not in the others makes two programs compute
different vectors from one directory without a word.
"""

import json
from pathlib import Path
from typing import Any

from components.model.spec import EncodingSpec, Pooling

ENCODING_FILE = "encoding.json"
GOLDEN_FILE = "golden.json"

POOLING_FLAGS: dict[Pooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
}
"""What sentence-transformers calls a pooling in its files."""
_EXECUTION = ("padding_side",)


def check_agreement(directory: str | Path, spec: EncodingSpec) -> None:
    """Compare a spec with that of the golden vectors and with what sentence-transformers reads.

    Files that are not there are not compared.

    Raises:
        ValueError: naming the field, its two values and where they stand.
    """
    root = Path(directory)
    ours = spec.to_json()
    recorded = read_json(root / GOLDEN_FILE).get("spec", {})
    for name, value in recorded.items():
        if name not in _EXECUTION and ours.get(name) != value:
            raise ValueError(_sentence(root, name, ours.get(name), value, GOLDEN_FILE))
    said = ours | {"query_template": spec.prefix("query"), "document_template": spec.prefix("document")}
    for name, (value, file) in _sentence_transformers(root).items():
        if said[name] != value:
            raise ValueError(_sentence(root, name, said[name], value, file))


def _sentence(root: Path, name: str, ours: object, theirs: object, file: str) -> str:
    return (
        f"{name} is {ours!r} in {root / ENCODING_FILE} and {theirs!r} in {file}; vectors would differ from those "
        "that the model was exported with: undo the change, or bring the model in anew with embedloom import"
    )


def _sentence_transformers(root: Path) -> dict[str, tuple[object, str]]:
    """What sentence-transformers would take for the fields of a spec, and the file that says so."""
    found: dict[str, tuple[object, str]] = {}
    if not (root / "modules.json").is_file():
        return found
    names = {flag: pooling for pooling, flag in POOLING_FLAGS.items()}
    found["normalize"] = (False, "modules.json")
    for module in read_json(root / "modules.json"):
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Normalize":
            found["normalize"] = (True, "modules.json")
        elif kind == "Pooling":
            file = f"{module['path']}/config.json"
            config = read_json(root / file)
            flags = [flag for flag, on in config.items() if on is True and "mode" in flag]
            modes = [names.get(flag, flag) for flag in flags]
            found["pooling"] = (modes[0] if len(modes) == 1 else modes, file)
            found["pool_template"] = (config.get("include_prompt", True), file)
    length = read_json(root / "sentence_bert_config.json").get("max_seq_length")
    if length is not None:
        found["document_length"] = (length, "sentence_bert_config.json")
    file = "config_sentence_transformers.json"
    for side, prompt in (read_json(root / file).get("prompts") or {}).items():
        if side in ("query", "document"):
            found[f"{side}_template"] = (prompt, file)
    return found


def read_json(path: Path) -> Any:
    """What a file holds; an empty mapping where there is no such file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}
