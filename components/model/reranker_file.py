"""`reranker.json` beside the weights: how a reranker is to be read, and its identity."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from components.model.agreement import read_json
from components.model.prompt import RerankerSpec

RERANKER_FILE = "reranker.json"
_DEFAULT_LENGTH = 8192
_KINDS = ("ForCausalLM", "ForSequenceClassification")


@dataclass(frozen=True)
class PairSpec:
    """How queries and documents become texts.

    Attributes:
        prompt: of a decoder; None: a cross-encoder, or nothing is known.
        length: of a cross-encoder, tokens of query and document together; None: what it can read.
    """

    prompt: RerankerSpec | None = None
    length: int | None = None

    def to_json(self) -> dict:
        return {"prompt": asdict(self.prompt) if self.prompt else None, "length": self.length}


def read_reranker_spec(directory: str | Path) -> PairSpec:
    """What a directory tells of itself; nothing where it has no `reranker.json`.

    Raises:
        ValueError: the file is there and is none.
    """
    path = Path(directory) / RERANKER_FILE
    if not path.is_file():
        return PairSpec()
    try:
        spec = json.loads(path.read_text("utf-8"))["spec"]
        return PairSpec(RerankerSpec(**spec["prompt"]) if spec["prompt"] else None, spec["length"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no reranker file: {error!r}") from error


def scorer_id(weights_digest: str, tokens_digest: str) -> str:
    """Two scores are comparable only if they carry the same one.

    Args:
        tokens_digest: `PairTokens.digest`: prompt, answers, length and tokenizer.
    """
    return hashlib.sha256(f"{weights_digest} {tokens_digest}".encode()).hexdigest()[:32]


def architecture_of(directory: str | Path) -> str:
    """Of a reranker's `config.json`.

    Raises:
        ValueError: there is none, or that of a model that is no reranker.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory} holds no reranker: config.json is missing")
    name = (json.loads(path.read_text("utf-8")).get("architectures") or [""])[0]
    if not name.endswith(_KINDS):
        raise ValueError(
            f"{directory} holds a {name or 'model of no named architecture'}; a reranker is a causal language "
            "model or a sequence classifier"
        )
    return name


def longest(directory: str | Path, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens that a model can read, at most 8,192."""
    config = json.loads((Path(directory) / "config.json").read_text("utf-8"))
    positions = config.get("max_position_embeddings") or _DEFAULT_LENGTH
    return min(positions, tokenizer.model_max_length, _DEFAULT_LENGTH)


def says_that_it_is_a_reranker(path: Path) -> bool:
    """Whether a model's own files tell that it scores pairs; a language model's alone do not."""
    if not path.is_dir():
        return False
    if (path / RERANKER_FILE).is_file():
        return True
    if read_json(path / "config_sentence_transformers.json").get("model_type") == "CrossEncoder":
        return True
    return (read_json(path / "config.json").get("architectures") or [""])[0].endswith(
        "ForSequenceClassification"
    )
