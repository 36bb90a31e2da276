"""The prompt in which a causal language model judges a query and a document by yes or no."""

import json
import re
from dataclasses import dataclass
from typing import get_args

from transformers import PreTrainedTokenizerFast

from components.model.spec import PaddingSide

_FIELD = re.compile(r"\{(instruction|query|document)\}")
_DOCUMENT = "{document}"
_PLACE_OF_THE_BODY = "@@body@@"
_ROLES = {"system": "instruction", "query": "query", "document": "document"}
"""Of a reranker's chat template, with what each of them brings."""


@dataclass(frozen=True)
class RerankerSpec:
    """How a query, a document and an instruction become one text, and which tokens answer it.

    The defaults are the published prompt of Qwen3-Reranker; a checkpoint that departs from it is not
    interchangeable with others. Checked when it is made.

    Raises:
        ValueError: a field has a value that cannot be used.
    """

    length: int = 8192
    """Longest text in tokens, prefix and suffix included. What is longer loses the end of its body."""
    prefix: str = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    """Never cut."""
    body: str = "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    """`{document}` stands at its end, so that a cut takes the end of the document first."""
    suffix: str = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    """Never cut. The answer is the token that follows it."""
    instruction: str = "Given a web search query, retrieve relevant passages that answer the query"
    """What `{instruction}` stands for where a request brings none."""
    yes: str = "yes"
    """One token."""
    no: str = "no"
    """One token."""
    padding_side: PaddingSide = "left"
    """Execution only: the scores do not depend on it."""

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(f"length must be a whole number above 0; it is {self.length!r}")
        for name in ("prefix", "body", "suffix", "instruction", "yes", "no"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a text; it is {getattr(self, name)!r}")
        fields = _FIELD.findall(self.body)
        if not self.body.endswith(_DOCUMENT) or fields.count("document") != 1 or fields.count("query") != 1:
            raise ValueError(
                f"body must hold {{query}} once and end with its only {_DOCUMENT}; it is {self.body!r}"
            )
        if self.padding_side not in get_args(PaddingSide):
            raise ValueError(
                f"padding_side must be one of {get_args(PaddingSide)}; it is {self.padding_side!r}"
            )

    def format_body(self, query: str, document: str, instruction: str | None = None) -> str:
        """What stands between prefix and suffix; `instruction` replaces the spec's own."""
        values = {
            "query": query,
            "document": document,
            "instruction": self.instruction if instruction is None else instruction,
        }
        # One pass: braces inside a query or a document stay as they are.
        return _FIELD.sub(lambda field: values[field[1]], self.body)


def chat_template(spec: RerankerSpec) -> str:
    """The prompt as a chat template (Jinja) with the roles `query` and `document`, `system` for an instruction.

    By it sentence-transformers' CrossEncoder and vLLM's score endpoint build the same text.
    """
    values = {"instruction": spec.instruction, "query": "", "document": ""}
    parts = [json.dumps(spec.prefix)]
    for number, part in enumerate(_FIELD.split(spec.body)):
        parts.append(f"found.{part}" if number % 2 else json.dumps(part))
    parts.append(json.dumps(spec.suffix))
    start = ", ".join(f"{name}={json.dumps(value)}" for name, value in values.items())
    cases = "".join(
        f'{{%- {"if" if number == 0 else "elif"} message.role == "{role}" -%}}'
        f"{{%- set found.{field} = text -%}}"
        for number, (role, field) in enumerate(_ROLES.items())
    )
    return (
        f"{{%- set found = namespace({start}) -%}}{{%- for message in messages -%}}"
        "{%- set text = message.content if message.content is string else message.content[0].text -%}"
        f"{cases}{{%- endif -%}}{{%- endfor -%}}{{{{- {' ~ '.join(parts)} -}}}}"
    )


def template_fields(tokenizer: PreTrainedTokenizerFast) -> dict[str, str] | None:
    """`prefix`, `body`, `suffix` and `instruction` of a chat template that names the roles `query` and `document`.

    The body begins with the line in which the first of its fields stands. None: there is no such template.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str) or not all(
        re.search(f"""['"]{role}['"]""", template) for role in _ROLES
    ):
        return None
    messages = [{"role": role, "content": f"{{{field}}}"} for role, field in _ROLES.items()]
    text, without = (
        str(tokenizer.apply_chat_template(some, tokenize=False)) for some in (messages, messages[1:])
    )
    head, found, suffix = text.partition(_DOCUMENT)
    if not found or "{query}" not in head:
        return None
    start = head.rfind("\n", 0, min(head.find(field[0]) for field in _FIELD.finditer(head))) + 1
    fields = {"prefix": head[:start], "body": head[start:] + _DOCUMENT, "suffix": suffix}
    before, found, behind = text.partition("{instruction}")
    if found and without.startswith(before) and without.endswith(behind):
        fields["instruction"] = without[len(before) : len(without) - len(behind)]
    return fields


def chat_spec(tokenizer: PreTrainedTokenizerFast, body: str, closing: str, length: int) -> RerankerSpec:
    """The prompt for an instruct model: one user turn in the model's own chat template, no thinking.

    Args:
        body: as `RerankerSpec.body`.
        closing: what stands behind the document in the same turn; never cut.

    Raises:
        ValueError: the tokenizer has no chat template, or one that does not show the user's words.
    """
    if tokenizer.chat_template is None:
        raise ValueError("the model has no chat template; a judge must be an instruct model")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PLACE_OF_THE_BODY + closing}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    prefix, found, suffix = str(text).partition(_PLACE_OF_THE_BODY)
    if not found or _PLACE_OF_THE_BODY in suffix:
        raise ValueError("the chat template does not show the user's words once, as they are")
    return RerankerSpec(length=length, prefix=prefix, body=body, suffix=suffix)
