"""EncodingSpec: everything that turns a text into a vector, in one frozen object.

It is saved with every model (`encoding.json`) and used by filter, miner, trainer, evaluator, exporter and
server alike. Nothing else in the code formats a prompt.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Side = Literal["query", "document"]
PaddingSide = Literal["left", "right"]
Attention = Literal["own", "causal"]
Pooling = Literal["mean", "cls", "last"]

_TEXT = "{text}"
_INSTRUCTION = "{instruction}"


@dataclass(frozen=True)
class EncodingSpec:
    """How a text becomes a vector. Checked when it is made.

    Raises:
        ValueError: a field has a value that cannot be used.
    """

    query_length: int
    """Longest query in tokens, special tokens included; what is longer is cut, the end token kept."""
    document_length: int
    """Longest document in tokens, special tokens included."""
    dimensions: int
    """Length of the vector: a prefix of the backbone's hidden state."""
    pooling: Pooling
    query_template: str = _TEXT
    """A prefix that may hold `{instruction}`, then `{text}`: `Instruct: {instruction}\\nQuery:{text}`."""
    document_template: str = _TEXT
    """A prefix, then `{text}`."""
    instruction: str = ""
    """What `{instruction}` stands for where a request brings none."""
    end_token: str | None = None
    """Token behind every text, appended by the tokenizer itself. None: as the tokenizer was built."""
    padding_side: PaddingSide = "right"
    """Execution only: the vectors do not depend on it."""
    attention: Attention = "own"
    """`own`: as the backbone was built; `causal`: a position sees itself and what stands before it."""
    normalize: bool = True
    """L2-normalise the vector."""

    def __post_init__(self) -> None:
        for name in ("query_template", "document_template"):
            template = getattr(self, name)
            if not isinstance(template, str) or not template.endswith(_TEXT) or template.count(_TEXT) != 1:
                raise ValueError(f"{name} must be a prefix followed by {_TEXT}; it is {template!r}")
        if _INSTRUCTION in self.document_template:
            raise ValueError(f"document_template holds {_INSTRUCTION}; only query_template may")
        for name in ("query_length", "document_length", "dimensions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0; it is {value!r}")
        for name, allowed in (("padding_side", PaddingSide), ("attention", Attention), ("pooling", Pooling)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}; it is {getattr(self, name)!r}")
        if not isinstance(self.normalize, bool):
            raise ValueError(f"normalize must be true or false; it is {self.normalize!r}")
        if not isinstance(self.instruction, str):
            raise ValueError(f"instruction must be a text; it is {self.instruction!r}")
        if self.end_token is not None and (not isinstance(self.end_token, str) or not self.end_token):
            raise ValueError(f"end_token must be a token or null; it is {self.end_token!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EncodingSpec":
        """The inverse of `to_json`.

        Raises:
            ValueError: an unknown or missing field, or a value that cannot be used.
        """
        check_fields(values)
        missing = {"query_length", "document_length", "dimensions", "pooling"} - values.keys()
        if missing:
            raise ValueError(f"the encoding spec lacks {', '.join(sorted(missing))}")
        return cls(**values)

    def prefix(self, side: Side, instruction: str | None = None) -> str:
        """What stands before the text on a side."""
        if side == "document":
            return self.document_template.removesuffix(_TEXT)
        if side != "query":
            raise ValueError(f"side must be 'query' or 'document'; it is {side!r}")
        return self.query_template.removesuffix(_TEXT).replace(
            _INSTRUCTION, self.instruction if instruction is None else instruction
        )

    def format_query(self, text: str, instruction: str | None = None) -> str:
        """The query as the backbone reads it; `instruction` replaces the spec's own."""
        return self.prefix("query", instruction) + text

    def format_document(self, text: str) -> str:
        """The document as the backbone reads it."""
        return self.prefix("document") + text

    def length(self, side: Side) -> int:
        """Longest text of a side in tokens."""
        return self.query_length if side == "query" else self.document_length

    def space_id(self, weights_digest: str) -> str:
        """Identity of the vector space: vectors are comparable only if they carry the same one.

        Query template, instruction, query length and `dimensions` belong to a request, padding side to
        execution: none of them is in it.
        """
        identity = {
            "weights": weights_digest,
            "document_template": self.document_template,
            "document_length": self.document_length,
            "end_token": self.end_token,
            "attention": self.attention,
            "pooling": self.pooling,
            "normalize": self.normalize,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def check_fields(values: dict[str, Any]) -> None:
    """Refuse names that are no fields of EncodingSpec.

    Raises:
        ValueError: naming them and the fields there are.
    """
    known = [field.name for field in fields(EncodingSpec)]
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise ValueError(f"unknown encoding field {', '.join(unknown)}; the fields are {', '.join(known)}")
