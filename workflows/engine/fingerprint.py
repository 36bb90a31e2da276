"""The identity of a step: a hash of what is computed and out of what.

The name of a step is not hashed: it is a label. Two recipes that contain the same work share its result,
whatever they call it, and renaming a step recomputes nothing. Neither are execution, budget, retries or the
storage root: they are not in the payload, so they cannot enter.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from workflows.engine.step import Step, Sub, closure, producer

SCHEMA = 1


def canonical_json(value: Any, path: str = "config") -> str:
    """One text for one value: keys sorted, no spaces, floats by their shortest repr, tuples as lists.

    Raises:
        TypeError: a value that is not plain JSON; the message names its path. Subclasses (enums, NumPy
            scalars) are refused too: their text may change with a library.
        ValueError: NaN or an infinity.
    """
    return json.dumps(_plain(value, path), sort_keys=True, separators=(",", ":"), allow_nan=False)


def payload(step: Step, fingerprints: Mapping[Step, str]) -> dict[str, Any]:
    """What is hashed, given the fingerprints of the steps that `step` reads."""
    inputs = {}
    for key, source in step.inputs.items():
        made_by = fingerprints[producer(source)]
        inputs[key] = f"{made_by}/{source.path}" if isinstance(source, Sub) else made_by
    return {
        "schema": SCHEMA,
        "fn": step.fn,
        "version": step.version,
        "config": _plain(step.config, f"step `{step.name}`, config"),
        "external": _plain(step.external, f"step `{step.name}`, external"),
        "inputs": inputs,
    }


def digest(payload: Mapping[str, Any]) -> str:
    """SHA-256 of a payload, in hex."""
    return hashlib.sha256(canonical_json(payload, "payload").encode()).hexdigest()


def fingerprints(steps: Iterable[Step]) -> dict[Step, str]:
    """The fingerprint of every step and of all that they are made of, inputs first."""
    found: dict[Step, str] = {}
    for step in closure(steps):
        found[step] = digest(payload(step, found))
    return found


def _plain(value: Any, path: str) -> Any:
    if value is None or type(value) in (str, int, bool):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value}; only finite numbers can be part of a step's identity")
        return value
    if type(value) in (list, tuple):
        return [_plain(item, f"{path}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{path} has the key {key!r}; keys must be strings")
        return {key: _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise TypeError(
        f"{path} is a {type(value).__name__}; "
        "a step's identity is made of str, int, float, bool, None, lists and dicts"
    )
