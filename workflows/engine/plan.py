"""What a submission would do: for every step HIT or RUN, and for RUN exactly why."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.step import Step, closure, producer, resolve
from workflows.engine.store import DamagedResultError, Manifest, Store

_SHOWN = 5


@dataclass(frozen=True)
class Planned:
    """One step of a plan."""

    step: Step
    fingerprint: str
    state: Literal["HIT", "RUN"]
    reasons: tuple[str, ...] = ()
    """Why it runs; empty for a HIT."""
    manifest: Manifest | None = None
    """The result; None for RUN."""

    def __str__(self) -> str:
        return f"{self.state}  {self.step.name}  {'; '.join(self.reasons)}".rstrip()


def plan(steps: Iterable[Step], store: Store, confirm: bool = True) -> list[Planned]:
    """HIT or RUN for the steps and all that they are made of, inputs first.

    Args:
        confirm: ask the `confirm` function of the steps that have one; it may need a server that answers.
    """
    prints = fingerprints(steps)
    found = store.find_all(prints)
    planned: dict[Step, Planned] = {}
    for step in closure(steps):
        manifest = found[step]
        if isinstance(manifest, Manifest):
            if confirm and not confirmed(step, manifest, store):
                why = "its result stands, but its effect outside the store is gone"
                planned[step] = Planned(step, prints[step], "RUN", (why,))
            else:
                planned[step] = Planned(step, prints[step], "HIT", manifest=manifest)
        elif isinstance(manifest, DamagedResultError):
            planned[step] = Planned(step, prints[step], "RUN", (f"its result is damaged: {manifest}",))
        else:
            planned[step] = Planned(step, prints[step], "RUN", _reasons(step, prints, planned, store))
    return list(planned.values())


def confirmed(step: Step, manifest: Manifest, store: Store) -> bool:
    """Whether a hit holds outside the store too. True for a step that has no effect there."""
    if step.confirm is None:
        return True
    return bool(resolve(step.confirm)(store.output(step, manifest), **step.execution))


def _reasons(
    step: Step, prints: Mapping[Step, str], planned: Mapping[Step, Planned], store: Store
) -> tuple[str, ...]:
    now = payload(step, prints)
    previous = store.previous(step)
    if not previous:
        return ("never run",)
    # Another recipe may have a step of this name: the closest of the last results tells the most.
    closest = min(previous, key=lambda manifest: _distance(manifest.payload, now))
    reasons = _changes(closest.payload, now)
    if closest.payload["external"] != now["external"] and step.explain:
        reasons.append(_explanation(step, closest, store))
    return (*reasons, *_changed_inputs(step, closest.payload["inputs"], now["inputs"], planned))


def _changed_inputs(
    step: Step, before: Mapping[str, str], after: Mapping[str, str], planned: Mapping[Step, Planned]
) -> list[str]:
    """A sentence for each way in which inputs differ, with the steps that they come from."""
    changes: dict[tuple[str, str], list[str]] = {}
    for key in sorted({*before, *after}):
        if before.get(key) == after.get(key):
            continue
        if key not in after:
            changes.setdefault(("is gone", "are gone"), []).append(key)
            continue
        source = producer(step.inputs[key])
        if key not in before:
            verbs = ("is new", "are new")
        elif planned[source].state == "RUN":
            verbs = ("reruns", "rerun")
        else:
            verbs = ("is another result", "are other results")
        changes.setdefault(verbs, []).append(source.name)
    sentences = []
    for (one, many), names in changes.items():
        shown = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
        sentences.append(f"inputs {shown} {many}" if "," in shown else f"input {shown} {one}")
    return sentences


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every value that differs in what two payloads say of function, configuration and outside world."""
    code = [key for key in ("fn", "version") if old[key] != new[key]]
    changes = [f"{key}: {_text(old[key])} -> {_text(new[key])}" for key in code]
    before, after = dict(flatten(old["config"])), dict(flatten(new["config"]))
    for key in sorted({*before, *after}):
        if key not in before:
            changes.append(f"{key}: {_text(after[key])} is new")
        elif key not in after:
            changes.append(f"{key}: {_text(before[key])} is gone")
        elif _text(before[key]) != _text(after[key]):  # as text: 1 and 1.0 differ in identity
            changes.append(f"{key}: {_text(before[key])} -> {_text(after[key])}")
    before, after = old["external"], new["external"]
    kinds = {
        "changed": [key for key in after if key in before and before[key] != after[key]],
        "added": [key for key in after if key not in before],
        "removed": [key for key in before if key not in after],
    }
    for kind, names in kinds.items():
        if names:
            shown = ", ".join(sorted(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            changes.append(f"{kind}: {shown}{more}")
    return changes


def _distance(old: Mapping[str, Any], new: Mapping[str, Any]) -> int:
    inputs = {*old["inputs"].items()} ^ {*new["inputs"].items()}
    return len(_changes(old, new)) + len(inputs)


def _explanation(step: Step, previous: Manifest, store: Store) -> str:
    assert step.explain is not None
    try:
        return resolve(step.explain)(store.previous_output(previous), **step.config, **step.execution)
    except (OSError, ValueError) as error:  # an old output may be gone; that must not stop a plan
        return f"(what changed cannot be told: {error})"


def flatten(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves by dotted path. A list is a leaf."""
    leaves: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            leaves += flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves


def _text(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
