"""Where results are kept, and when one counts.

    {root}/{function}/{first 16 digits of the fingerprint}/
        manifest.json         written last, by conditional put: its presence makes the step done
        attempt-<token>/      the output of one attempt; the manifest names the one that counts
        state/                what survives a failed attempt (checkpoints); gone after the commit
        lease-*.json          who works on it (lease.py); gone after the commit
    {root}/cache/             what any step may use again (vectors); may be deleted at any time
    {root}/names/{step name}.json   the last results of steps of that name, for `plan` to compare with

One fingerprint has one folder whatever the step is called, so recipes share work. Object stores have no
rename, so an attempt stays where it was written. The manifest is the truth; MLflow is the index.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.storage import Folder
from workflows.engine import lease
from workflows.engine.step import Step

_MANIFEST = "manifest.json"
_STATE = "state"
_CACHE = "cache"
_REMEMBERED = 8


class DamagedResultError(ValueError):
    """A manifest stands, but what it promises is not there."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a finished step."""

    name: str
    fingerprint: str
    payload: Mapping[str, Any]
    attempt: str
    """Name of the attempt folder that holds the output."""
    outputs: Mapping[str, Mapping[str, Any]]
    """Relative file name -> {"size": bytes, "sha256": hex}."""
    numbers: Mapping[str, float]
    """What the function returned."""
    started: float
    finished: float
    """Seconds since the epoch."""
    tracking: Mapping[str, str] = field(default_factory=dict)
    """`run_id` of the MLflow run that computed it and `place`, the MLflow that has it; empty if that was
    lost."""
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return self.finished - self.started

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


@dataclass(frozen=True)
class Followed:
    """A step as another sees it that follows its work.

    Attributes:
        folder: of the step in the store.
    """

    folder: Folder

    @property
    def state(self) -> Folder:
        """What the step leaves while it works. Gone once it is done."""
        return self.folder / _STATE

    def output(self) -> Folder | None:
        """Its result; None as long as it is not done."""
        try:
            return self.folder / json.loads(self.folder.read(_MANIFEST))["attempt"]
        except FileNotFoundError:
            return None


def input_of(output: Folder, keyword: str) -> Folder | None:
    """What a result in a store read under a keyword.

    Args:
        output: what the manifest calls its attempt.

    Returns: the output of the step that made it; None if it is not there, or `output` is no result.
    """
    work = Folder(output.uri.rstrip("/").rpartition("/")[0])
    root = Folder(work.uri.rpartition("/")[0].rpartition("/")[0])
    try:
        made_by = json.loads(work.read(_MANIFEST))["payload"]["inputs"][keyword]
        [source] = root.names(f"*/{made_by[:16]}/{_MANIFEST}")
        found = root / source.removesuffix(f"/{_MANIFEST}")
        return found / json.loads(found.read(_MANIFEST))["attempt"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


class Store:
    """Results by fingerprint, under a root folder.

    Args:
        root: local path or URI.
        lease_period_s: how long a lease of another host stands without a heartbeat.
    """

    def __init__(self, root: str | Path | Folder, lease_period_s: float = 60.0) -> None:
        folder = root if isinstance(root, Folder) else Folder(str(root))
        # Workers on the cluster have other working directories.
        self.root = Folder(os.path.abspath(folder.path())) if folder.is_local else folder
        self.lease_period_s = lease_period_s

    @property
    def cache(self) -> Folder:
        """What any step may use again: it changes no result and may be deleted at any time."""
        return self.root / _CACHE

    def check_writable(self) -> None:
        """Raises ValueError, in one sentence, if results cannot be kept here."""
        probe = f".writable-{os.getpid()}"
        try:
            self.root.write(probe, b"")
            self.root.delete(probe)
        except Exception as error:  # every file system has its own errors for "no access"
            raise ValueError(f"storage root {self.root.uri} cannot be written: {error}") from error

    def folder(self, step: Step, fingerprint: str) -> Folder:
        """Where a result and the work on it are."""
        return self.root / step.fn.rpartition(":")[2] / fingerprint[:16]

    def output(self, step: Step, manifest: Manifest) -> Folder:
        return self.folder(step, manifest.fingerprint) / manifest.attempt

    def find(self, step: Step, fingerprint: str) -> Manifest | None:
        """The manifest of a finished step, checked against what is stored.

        Raises:
            DamagedResultError: it cannot be read, is of another step, or a file is missing or of another
                size.
        """
        folder = self.folder(step, fingerprint)
        try:
            manifest = Manifest(**json.loads(folder.read(_MANIFEST)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise DamagedResultError(f"its manifest cannot be read ({error})") from error
        if manifest.fingerprint != fingerprint:
            raise DamagedResultError(f"its manifest is of another fingerprint, {manifest.fingerprint[:16]}")
        sizes = (folder / manifest.attempt).files()
        for name, facts in manifest.outputs.items():
            if sizes.get(name) != facts["size"]:
                there = f"has {sizes[name]} bytes" if name in sizes else "is missing"
                raise DamagedResultError(f"{name} {there}, the manifest says {facts['size']} bytes")
        return manifest

    def find_all(self, wanted: Mapping[Step, str]) -> dict[Step, Manifest | DamagedResultError | None]:
        """`find` of many, side by side: on an object store each is two round trips."""

        def look(step: Step) -> Manifest | DamagedResultError | None:
            try:
                return self.find(step, wanted[step])
            except DamagedResultError as damage:
                return damage

        with ThreadPoolExecutor(1 if self.root.is_local else 16) as pool:
            return dict(zip(wanted, pool.map(look, wanted), strict=True))

    def previous(self, step: Step) -> list[Manifest]:
        """The last results of a step of this name that still stand, newest first."""
        found = []
        for entry in self._remembered(step.name):
            try:
                text = (self.root / entry["folder"]).read(_MANIFEST)
            except FileNotFoundError:
                continue
            found.append(Manifest(**json.loads(text)))
        return found

    def previous_output(self, manifest: Manifest) -> Folder:
        """The output folder of a manifest from `previous`."""
        function = manifest.payload["fn"].rpartition(":")[2]
        return self.root / function / manifest.fingerprint[:16] / manifest.attempt

    def commit(self, step: Step, manifest: Manifest, held: lease.Lease) -> bool:
        """Make an attempt the result. False: another attempt was first; this one is discarded."""
        folder = self.folder(step, manifest.fingerprint)
        if not folder.create(_MANIFEST, manifest.to_json()):
            folder.delete(manifest.attempt)
            held.release()
            return False
        held.release()
        for name in folder.names("attempt-*"):
            if name != manifest.attempt:
                folder.delete(name)
        folder.delete(_STATE)
        lease.clear(folder)
        here = f"{step.fn.rpartition(':')[2]}/{manifest.fingerprint[:16]}"
        entries = [entry for entry in self._remembered(step.name) if entry["folder"] != here]
        entries = [{"folder": here}, *entries][:_REMEMBERED]
        self.root.write(f"names/{step.name}.json", json.dumps(entries).encode())
        return True

    def discard(self, step: Step, fingerprint: str) -> None:
        """Forget a result, so that the step runs again. The caller holds the lease."""
        self.folder(step, fingerprint).delete(_MANIFEST)

    def _remembered(self, name: str) -> list[dict[str, str]]:
        # Read, then written, without a lock: two submissions may lose an entry, and `plan` then compares with
        # another.
        try:
            return json.loads(self.root.read(f"names/{name}.json"))
        except FileNotFoundError:
            return []
