"""What the store holds that nobody refers to, and how it goes.

A result is kept if a run refers to it (computed or reused it) or if a registered version was made from it, and with
it all that it was made from itself. What this MLflow has never heard of belongs to runs of another one and is kept.
Beside results there is what work leaves behind: attempts of processes that have ended, `state/` of steps that are
done, and vectors beyond a size.

What a living process holds the lease of is never touched: whatever is deleted in the folder of a step is deleted
under its lease, by the same protocol as work on it, and the manifest goes first, so that no reader takes what is
going for a result. A run that is recorded in another MLflow and reuses a result of this one is not seen.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.storage import Folder
from workflows.engine import lease
from workflows.engine.history import RecordedRun
from workflows.engine.lease import Contender, Heartbeat
from workflows.engine.store import Store

_MANIFEST = "manifest.json"
_STATE = "state"
_WORK = re.compile(r"[0-9a-f]{16}")
_NO_RESULTS = ("cache", "mlflow", "names")
_MODEL_FILES = ("encoding.json", "reranker.json")
"""Each says the digest of the weights beside it."""


@dataclass(frozen=True)
class References:
    """Who refers to results.

    Attributes:
        counted: fingerprints, by their first 16 digits, that a run refers to.
        dismissed: those that only other runs refer to, and why these do not count.
        registered: digest of weights -> the registered versions that have them, in words.
        place: what tells this MLflow from others, as manifests say it.
    """

    counted: frozenset[str]
    dismissed: Mapping[str, str]
    registered: Mapping[str, str]
    place: str


@dataclass(frozen=True)
class Kept:
    """A piece of work that stays."""

    where: str
    """Its folder, relative to the root."""
    step: str
    """Under which name it was done last; empty if it is not done."""
    size: int
    why: str


@dataclass(frozen=True)
class Removal:
    """What may go of one piece of work, or of the cache."""

    where: str
    """Its folder, relative to the root."""
    step: str
    paths: tuple[str, ...]
    """Relative to the folder, in the order in which they go."""
    size: int
    why: str


@dataclass(frozen=True)
class Survey:
    """All that the store holds."""

    kept: tuple[Kept, ...]
    removals: tuple[Removal, ...]
    sizes: Mapping[str, int]
    """Bytes of each piece of work, by the first 16 digits of its fingerprint."""


def references(
    runs: Iterable[RecordedRun], registered: Mapping[str, str], place: str, keep_runs: int | None
) -> References:
    """Who refers to what, by the runs that count.

    Args:
        runs: newest first.
        keep_runs: so many runs of each recipe count, the newest, and those that are at work; None: all.
    """
    counted: set[str] = set()
    dismissed: dict[str, str] = {}
    seen: dict[str, int] = {}
    for each in runs:
        mine = [step.fingerprint[:16] for step in each.steps]
        if each.is_deleted:
            dismissed |= {number: dismissed.get(number, "only deleted runs refer to it") for number in mine}
            continue
        name = each.run.name
        seen[name] = seen.get(name, 0) + 1
        if keep_runs is None or seen[name] <= keep_runs or each.run.status == "RUNNING":
            counted |= {*mine}
        else:
            dismissed |= dict.fromkeys(mine, f"only older runs of {name} refer to it")
    return References(frozenset(counted), dismissed, registered, place)


def survey(store: Store, known: References, cache_limit: int) -> Survey:
    """Look at all that is stored. Nothing is changed.

    Args:
        cache_limit: bytes of vectors that may stay in the cache.
    """
    works = _works(store.root)
    reasons = _reasons(works, known)
    kept: list[Kept] = []
    removals: list[Removal] = []
    for work in works:
        keep, removal = _judge(work, reasons.get(work.number), known)
        kept += keep
        removals += removal
    removals += _old_vectors(store.cache, cache_limit)
    sizes = {work.number: work.size for work in works}
    return Survey(tuple(kept), tuple(sorted(removals, key=lambda each: -each.size)), sizes)


def delete(
    store: Store, removals: Iterable[Removal], done: Callable[[Removal], object]
) -> list[tuple[Removal, str]]:
    """Delete what a survey found.

    Args:
        done: called with each that is gone.

    Returns: what stays because a process holds its lease, and who that is.
    """
    with Heartbeat(store.lease_period_s) as heartbeat:
        waiting: list[tuple[Removal, Contender]] = []
        for removal in removals:
            if removal.where == "cache":
                for path in removal.paths:
                    store.cache.delete(path)
                done(removal)
                continue
            contender = Contender(store.root / removal.where, store.lease_period_s)
            if _delete(removal, contender, heartbeat):
                done(removal)
            else:
                waiting.append((removal, contender))
        # Whether a process of another host is dead shows when its lease stands still for a period.
        deadline = time.monotonic() + store.lease_period_s + 1.0
        held = [(removal, contender) for removal, contender in waiting if _is_foreign(contender)]
        while held and time.monotonic() < deadline:
            time.sleep(min(1.0, store.lease_period_s / 4))
            for each in list(held):
                if _delete(*each, heartbeat):
                    held.remove(each)
                    waiting.remove(each)
                    done(each[0])
    return [(removal, str(contender.holder or "another process")) for removal, contender in waiting]


@dataclass(frozen=True)
class _Work:
    """One piece of work as it lies in the store."""

    folder: Folder
    where: str
    parts: Mapping[str, int]
    """Bytes of each file and folder in it."""
    manifest: Mapping[str, Any] | None
    damage: str = ""
    models: tuple[str, ...] = field(default=())
    """Digests of the weights of models in the result."""

    @property
    def number(self) -> str:
        return self.where.rpartition("/")[2]

    @property
    def size(self) -> int:
        return sum(self.parts.values())

    @property
    def step(self) -> str:
        return self.manifest["name"] if self.manifest else ""


def _works(root: Folder) -> list[_Work]:
    found = []
    for function in root.names():
        if function in _NO_RESULTS:
            continue
        folder = root / function
        works: dict[str, dict[str, int]] = {}
        for path in folder.names("*/*"):  # folders without a file are among them
            number, _, part = path.partition("/")
            if _WORK.fullmatch(number):
                works.setdefault(number, {})[part] = 0
        for path, size in folder.files().items():
            number, _, rest = path.partition("/")
            if number in works:
                part = rest.partition("/")[0]
                works[number][part] = works[number].get(part, 0) + size
        found += [_read(folder / number, f"{function}/{number}", parts) for number, parts in works.items()]
    return found


def _read(folder: Folder, where: str, parts: Mapping[str, int]) -> _Work:
    try:
        manifest = json.loads(folder.read(_MANIFEST))
        output, files = folder / manifest["attempt"], manifest["outputs"]
        models = tuple(
            json.loads(output.read(name))["weights_digest"]
            for name in files
            if name.rpartition("/")[2] in _MODEL_FILES and output.exists(name)
        )
        manifest["name"], manifest["payload"]["inputs"]  # what is asked of it
    except FileNotFoundError:
        return _Work(folder, where, parts, None)
    except (ValueError, KeyError, TypeError) as error:
        return _Work(folder, where, parts, None, f"its manifest cannot be read ({error!r})")
    return _Work(folder, where, parts, manifest, models=models)


def _reasons(works: list[_Work], known: References) -> dict[str, str]:
    """Why a result stays, for those that do: somebody refers to it, or to what was made from it."""
    by_number = {work.number: work for work in works}
    found: dict[str, str] = {}

    def keep(work: _Work, why: str) -> None:
        stack = [work]
        while stack:
            each = stack.pop()
            if each.number in found:
                continue
            found[each.number] = why
            inputs = each.manifest["payload"]["inputs"].values() if each.manifest else ()
            stack += [by_number[one[:16]] for one in inputs if one[:16] in by_number]

    for work in works:
        if versions := [known.registered[digest] for digest in work.models if digest in known.registered]:
            keep(work, f"registered: {', '.join(dict.fromkeys(versions))} came from it")
    for work in works:
        if work.number in known.counted:
            keep(work, "a run refers to it")
        elif work.manifest and not _is_known(work, known):
            keep(work, "of another MLflow, or of none: no run here has computed or reused it")
    return found


def _is_known(work: _Work, known: References) -> bool:
    """Whether this MLflow can say of a piece of work that nobody refers to it."""
    made_at = work.manifest["tracking"].get("place") if work.manifest else None
    return work.number in known.dismissed or made_at == known.place


def _judge(work: _Work, reason: str | None, known: References) -> tuple[list[Kept], list[Removal]]:
    holder = lease.at_work(work.folder)
    if holder or work.damage:
        why = f"{holder} works on it" if holder else work.damage
        return [Kept(work.where, work.step, work.size, why)], []

    def removal(paths: list[str], why: str) -> list[Removal]:
        size = sum(work.parts.get(path, 0) for path in paths)
        return [Removal(work.where, work.step, tuple(paths), size, why)] if paths else []

    attempts = [part for part in work.parts if part.startswith("attempt-")]
    state = [_STATE] if _STATE in work.parts else []
    everything = sorted(
        (part for part in work.parts if not part.startswith("lease-")), key=lambda part: part != _MANIFEST
    )
    if work.manifest:
        if reason is None:
            return [], removal(everything, known.dismissed.get(work.number, "no run refers to it"))
        left = [part for part in attempts if part != work.manifest["attempt"]]
        kept = Kept(work.where, work.step, work.size - sum(work.parts[part] for part in left + state), reason)
        return [kept], [
            *removal(left, "attempts of processes that have ended; the result is another"),
            *removal(state, "what its work needed; the step is done"),
        ]
    if work.number in known.dismissed and work.number not in known.counted:
        return [], removal(everything, f"not finished, and {known.dismissed[work.number]}")
    why = "not done; the next attempt goes on from it"
    kept_state = [Kept(work.where, "", work.parts[_STATE], why)] if state else []
    return kept_state, removal(attempts, "attempts of processes that have ended; the step is not done")


def _old_vectors(cache: Folder, limit: int) -> list[Removal]:
    """The vectors that were written first, as far as the cache is larger than it may be."""
    files = cache.files()
    excess = sum(files.values()) - limit
    if excess <= 0:
        return []
    written = sorted(
        (path for path in files if path.endswith(".vectors.npy")),
        key=lambda path: cache.filesystem.modified(cache.path(path)),
    )
    paths: list[str] = []
    size = 0
    for vectors in written:
        if size >= excess:
            break
        # The keys first: vectors without keys are never read.
        both = [path for path in (vectors.replace(".vectors.", ".keys."), vectors) if path in files]
        paths += both
        size += sum(files[path] for path in both)
    return [Removal("cache", "", tuple(paths), size, f"vectors beyond {limit:,} bytes, the oldest")]


def _delete(removal: Removal, contender: Contender, heartbeat: Heartbeat) -> bool:
    """Delete under the lease. False: somebody has it."""
    held = contender.acquire()
    if held is None:
        return False
    heartbeat.keep(held)
    try:
        for path in removal.paths:
            contender.folder.delete(path)
    finally:
        heartbeat.drop(held)
        held.release()
    left = [name for name in contender.folder.names() if not name.startswith("lease-")]
    if not left:
        contender.folder.delete()
    elif _MANIFEST in left:
        lease.clear(contender.folder)
    return True


def _is_foreign(contender: Contender) -> bool:
    return contender.holder is not None and contender.holder.host != lease.this_host()
