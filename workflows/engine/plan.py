"""What a submission would do: for every step HIT or RUN, and for RUN exactly why."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.step import Step, closure, producer, resolve
from workflows.engine.store import DamagedResultError, Manifest, Store

_SHOWN = 5
_MOST_REASONS = 10


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
    ordered = closure(steps)
    lineage = _Lineage(store, ordered, set(prints.values()))
    for step in ordered:
        manifest = found[step]
        if isinstance(manifest, Manifest):
            if confirm and not confirmed(step, manifest, store):
                gone = "its result stands, but its effect outside the store is gone"
                planned[step] = Planned(step, prints[step], "RUN", (gone,))
            else:
                planned[step] = Planned(step, prints[step], "HIT", manifest=manifest)
        elif isinstance(manifest, DamagedResultError):
            planned[step] = Planned(step, prints[step], "RUN", (f"its result is damaged: {manifest}",))
        else:
            why = _reasons(step, payload(step, prints), lineage.before(step), planned, store)
            planned[step] = Planned(step, prints[step], "RUN", why)
    return list(planned.values())


def confirmed(step: Step, manifest: Manifest, store: Store) -> bool:
    """Whether a hit holds outside the store too. True for a step that has no effect there."""
    if step.confirm is None:
        return True
    return bool(resolve(step.confirm)(store.output(step, manifest), **step.execution))


@dataclass
class _Lineage:
    """Which earlier results the steps of a workflow have: those made of the same things or an earlier state of them.

    A step of the same name over other documents is another recipe's. What differs would be everything, and say nothing.
    """

    store: Store
    ordered: list[Step]
    fingerprints: set[str]
    """Of the steps as they are, and of their earlier results."""
    _before: dict[Step, list[Manifest]] = field(default_factory=dict)

    def before(self, step: Step) -> list[Manifest]:
        """Results of a step, newest first. Nothing is read before a step asks."""
        if step not in self._before:
            for each in self.ordered[len(self._before) : self.ordered.index(step) + 1]:
                earlier = [one for one in self.store.previous(each) if self._belongs(one.payload, each)]
                self._before[each] = earlier
                self.fingerprints.update(one.fingerprint for one in earlier)
        return self._before[step]

    def _belongs(self, earlier: Mapping[str, Any], step: Step) -> bool:
        inputs, outside = earlier["inputs"].values(), earlier["external"]
        return (not inputs or any(each.partition("/")[0] in self.fingerprints for each in inputs)) and (
            not outside or not step.external or not outside.keys().isdisjoint(step.external)
        )


def _reasons(
    step: Step,
    now: Mapping[str, Any],
    earlier: list[Manifest],
    planned: Mapping[Step, Planned],
    store: Store,
) -> tuple[str, ...]:
    if not earlier:
        return ("never run",)
    closest = min(earlier, key=lambda manifest: _distance(manifest.payload, now))
    reasons = _changes(closest.payload, now)
    if len(reasons) > _MOST_REASONS:
        reasons[_SHOWN:] = [f"and {len(reasons) - _SHOWN} more changes"]
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
