"""A step of a workflow: what is computed, out of what, and what it may take to do so.

Steps are plain values. They form a DAG through `inputs`; nothing here runs them or knows where they run.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class Budget:
    """What a step, its workers included, takes of the cluster while it runs."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0

    def amounts(self) -> dict[str, float]:
        """By the names that Ray gives to resources."""
        return {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the DAG. Compared by identity; two steps are the same work if their fingerprints are equal.

    `fn`, `version`, `config`, `external` and `inputs` say what is computed and make the fingerprint; all else
    is how it is done and never enters it.
    """

    name: str
    """Unique within a workflow; a label, not part of the fingerprint."""
    fn: str
    """"package.module:function". Called as `fn(**inputs, **config, **execution, output=, monitor=)`, and with
    `state=` (a folder that survives a failed attempt), `cache=` (a folder that all steps share and that may be
    emptied) and `run_id=` (its MLflow run) if it has parameters of these names. Returns numbers by name."""
    version: int = 1
    """Raised when the function changes so that its output does."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    inputs: Mapping[str, "Step | Sub | Following"] = field(default_factory=dict)
    """Keyword of `fn` -> the step whose output folder (or a part of it) is handed over."""
    external: Mapping[str, str] = field(default_factory=dict)
    """What comes from outside the workflow: name -> digest of its content."""
    budget: Budget = field(default_factory=Budget)
    execution: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments that change where and how fast, not what."""
    explain: str | None = None
    """"package.module:function" of (output folder of the previous result, **config, **execution) -> a
    sentence that names what changed outside; asked by `plan` when `external` differs."""
    confirm: str | None = None
    """"package.module:function" of (output folder, **execution) -> bool: whether the effect of a finished
    step that lives outside the store (an entry in a registry) is still there."""
    headline: tuple[str, ...] = ()
    """Which of the numbers are shown on the parent run too, where whole runs are compared."""
    deadline_s: float | None = None
    retries: int = 2
    """How often it is started again after a failure of the cluster. A user error is never retried."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"step name {self.name!r}: use lower-case letters, digits, '.', '_' and '-'")
        for reference in filter(None, (self.fn, self.explain, self.confirm)):
            if reference.count(":") != 1:
                raise ValueError(f"step `{self.name}`: {reference!r} is not 'package.module:function'")
        seen = ["output", "monitor", "state", "cache", "run_id", *self.inputs, *self.config, *self.execution]
        twice = sorted({key for key in seen if seen.count(key) > 1})
        if twice:
            raise ValueError(f"step `{self.name}`: the arguments {twice} of {self.fn} are given twice")

    def __truediv__(self, path: str) -> "Sub":
        return Sub(self, path)


@dataclass(frozen=True)
class Sub:
    """A folder inside the output of a step."""

    step: Step
    path: str

    def __post_init__(self) -> None:
        if not self.path or {"", ".", ".."} & set(self.path.split("/")):
            raise ValueError(f"step `{self.step.name}`: {self.path!r} is no relative path in its output")


@dataclass(frozen=True)
class Following:
    """A step that may still be at work: its reader runs beside it where there is room, after it otherwise.

    The reader is handed a `store.Followed`, and ends when what it follows has ended.
    """

    step: Step


def producer(source: Step | Sub | Following) -> Step:
    """The step that makes an input."""
    return source if isinstance(source, Step) else source.step


def closure(steps: Iterable[Step]) -> list[Step]:
    """The steps and all that they are made of, inputs before their consumers.

    Raises:
        ValueError: two different steps carry one name.
    """
    ordered: dict[Step, None] = {}
    stack = [(step, False) for step in reversed(list(steps))]
    while stack:  # an explicit stack: a chain of steps may be longer than Python's recursion limit
        step, expanded = stack.pop()
        if step in ordered:
            continue
        if expanded:
            ordered[step] = None
        else:
            stack.append((step, True))
            stack.extend((producer(source), False) for source in reversed(list(step.inputs.values())))
    names = [step.name for step in ordered]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"two steps are called `{twice[0]}`; every step of a workflow needs its own name")
    return list(ordered)


def resolve(reference: str) -> Callable[..., Any]:
    """The function named by "package.module:qualified.name".

    Raises:
        ImportError: the module cannot be imported.
        AttributeError: it has no such function.
    """
    module, _, qualname = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found
