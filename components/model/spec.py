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
Attention = Literal["own", "causal", "bidirectional"]
Pooling = Literal[
    "mean", "cls", "last", "max", "weighted_mean", "prompt", "last_layer_trainable", "multi_layer_trainable"
]
Projection = Literal["none", "linear", "mlp"]

OVER_TOKENS: frozenset[Pooling] = frozenset({"mean", "max", "weighted_mean", "last_layer_trainable"})
"""Poolings that take in every token of a text, or all but those of its template."""

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
    """Length of the vector: a prefix of what pooling and projection give."""
    pooling: Pooling
    """`cls` and `last`: state of the first and of the last token; `mean`, `max` over the tokens; `weighted_mean`:
    the n-th token counts n times (SGPT, arXiv 2202.08904). `prompt`: state at the template's mask token, or
    at its last token where it has none (PromptBERT, PromptEOL). `last_layer_trainable`,
    `multi_layer_trainable`: cross-attention with learned queries over the tokens of the last layer, or over
    one vector a layer (arXiv 2409.02727)."""
    query_template: str = _TEXT
    """A prefix that may hold `{instruction}`, `{text}`, and what stands behind it:
    `Instruct: {instruction}\\nQuery:{text}`, `This sentence : "{text}" means [MASK] .`. A cut shortens the text."""
    document_template: str = _TEXT
    """The same for documents."""
    instruction: str = ""
    """What `{instruction}` stands for before a query where a request brings none."""
    document_instruction: str = ""
    """The same before a document (Instructor has an instruction on either side)."""
    end_token: str | None = None
    """Token behind every text, appended by the tokenizer itself. None: as the tokenizer was built."""
    padding_side: PaddingSide = "right"
    """Execution only: the vectors do not depend on it."""
    attention: Attention = "own"
    """`own`: as the backbone was built; `causal`: a position sees itself and what stands before it;
    `bidirectional`: it sees all."""
    normalize: bool = True
    """L2-normalise the vector."""
    pool_template: bool = True
    """Whether a pooling over tokens takes in those of the template and its instruction (Instructor leaves them out)."""
    pooling_queries: int = 32
    """Learned queries of the trainable poolings."""
    projection: Projection = "none"
    """Behind the pooling: `linear`, a matrix (Sentence-T5); `mlp`, a matrix, a bias and tanh (SimCSE)."""
    projection_dimensions: int | None = None
    """What the projection gives; None: as many as it takes in."""

    def __post_init__(self) -> None:
        for name in ("query_template", "document_template"):
            template = getattr(self, name)
            if not isinstance(template, str) or template.count(_TEXT) != 1:
                raise ValueError(f"{name} must hold {_TEXT} once; it is {template!r}")
            if _INSTRUCTION in template.partition(_TEXT)[2]:
                raise ValueError(f"{name} must hold {_INSTRUCTION} before {_TEXT}; it is {template!r}")
        for name in ("query_length", "document_length", "dimensions", "pooling_queries"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number above 0; it is {value!r}")
        for name, allowed in (
            ("padding_side", PaddingSide), ("attention", Attention), ("pooling", Pooling),
            ("projection", Projection),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}; it is {getattr(self, name)!r}")
        for name in ("normalize", "pool_template"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false; it is {getattr(self, name)!r}")
        if not self.pool_template and self.pooling not in OVER_TOKENS:
            raise ValueError(
                f"pool_template is false but pooling {self.pooling!r} does not go over tokens; "
                f"those that do: {', '.join(sorted(OVER_TOKENS))}"
            )
        if self.pooling == "prompt":
            for name in ("query_template", "document_template"):
                if getattr(self, name) == _TEXT:
                    raise ValueError(
                        f"pooling 'prompt' takes the state at the template's prompt; {name} has none"
                    )
        wide = self.projection_dimensions
        if wide is not None and (self.projection == "none" or isinstance(wide, bool) or wide < 1):
            raise ValueError(
                f"projection_dimensions is {wide!r}; it must be a whole number above 0 beside a projection"
            )
        for name in ("instruction", "document_instruction"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text; it is {getattr(self, name)!r}")
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
        own = self.instruction if side == "query" else self.document_instruction
        prefix = self._template(side).partition(_TEXT)[0]
        return prefix.replace(_INSTRUCTION, own if instruction is None else instruction)

    def suffix(self, side: Side) -> str:
        """What stands behind the text on a side, before the end token."""
        return self._template(side).partition(_TEXT)[2]

    def _template(self, side: Side) -> str:
        if side not in get_args(Side):
            raise ValueError(f"side must be 'query' or 'document'; it is {side!r}")
        return self.document_template if side == "document" else self.query_template

    def has_instruction(self, side: Side) -> bool:
        """Whether the side's template has a place for an instruction."""
        return _INSTRUCTION in self._template(side)

    @property
    def marks_template(self) -> bool:
        """Whether it counts which tokens are the template's."""
        return self.pooling == "prompt" or not self.pool_template

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
        # Spaces of what had no such choice keep their id.
        for field in fields(self):
            if field.name in ("pool_template", "projection") and getattr(self, field.name) != field.default:
                identity[field.name] = getattr(self, field.name)
        if self.has_instruction("document"):
            identity["document_instruction"] = self.document_instruction
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
