"""One worker per piece of work: a lease on a fingerprint, kept alive by a heartbeat.

A folder holds `lease-000001.json`, `lease-000002.json`, ...: generations, each made by a conditional put, so
exactly one contender gets each. The highest generation is the lease. Its holder alone rewrites that file: a
new beat, or `released`. To take over is to create the next generation, which two contenders cannot both do.
That needs nothing of the storage but create-if-absent and reading what was written, so it is the same on a
disk and on S3.

When a lease may be taken over:
- it was released;
- its holder was a process of this host that is gone (process id and start time say so): at once;
- its beat has not changed while a contender watched for one whole period. Only the contender's own clock is
  read, so clocks that disagree do no harm; duplicate work after the death of another host is bounded by one
  period.

After `kill -9` of a driver its Ray workers live on for up to about three seconds, until they see it gone.
They write to an attempt folder of their own, which never counts; only the shared `state/` sees both.

What is guaranteed: of contenders that look at the same moment one works. A holder that was frozen for longer
than a period (a suspended laptop) may wake beside its successor; it sees the higher generation at its next
beat and stops, and until then the manifest's conditional put decides which of the two results counts. Both
are whole.
"""

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace

import psutil

from components.storage import Folder

_SILENT_S = 3600.0


@dataclass(frozen=True)
class Holder:
    """What a lease file says."""

    token: str
    host: str
    pid: int
    process_started: float
    period_s: float
    beat: int = 0
    time: float = 0.0
    released: bool = False

    @classmethod
    def this_process(cls, period_s: float) -> "Holder":
        process = psutil.Process()
        return cls(
            uuid.uuid4().hex, this_host(), process.pid, process.create_time(), period_s, time=time.time()
        )

    def is_gone(self) -> bool:
        """Whether the process is known to be dead, which only its own host can say."""
        if self.host != this_host():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.process_started) > 1.0
        except psutil.NoSuchProcess:
            return True

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split('/')[0]}"


@dataclass
class Lease:
    """A lease that this process holds."""

    folder: Folder
    generation: int
    holder: Holder
    lost: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def token(self) -> str:
        return self.holder.token

    def beat(self) -> None:
        """Say that the work goes on; notice if it was taken over."""
        with self._lock:
            if self.lost or self.holder.released:
                return
            if _read(self.folder, self.generation + 1) is not None:
                self.lost = True
                return
            self.holder = replace(self.holder, beat=self.holder.beat + 1, time=time.time())
            self.folder.write(_name(self.generation), self.holder.to_json())

    def release(self) -> None:
        """Let the next one in; no beat follows. Harmless after the lease was lost: nobody reads this
        generation."""
        with self._lock:
            self.holder = replace(self.holder, released=True)
            self.folder.write(_name(self.generation), self.holder.to_json())


@dataclass
class Contender:
    """Tries for the lease of a folder; must be kept between tries, for it remembers what it watched."""

    folder: Folder
    period_s: float
    holder: Holder | None = None
    """Who had the lease at the last try."""
    _seen_since: float = 0.0

    def acquire(self) -> Lease | None:
        """The lease, or None while somebody else has it."""
        generation = _latest(self.folder)
        if generation and not self._may_follow(_read(self.folder, generation)):
            return None
        mine = Holder.this_process(self.period_s)
        if not self.folder.create(_name(generation + 1), mine.to_json()):
            return None
        return Lease(self.folder, generation + 1, mine)

    def _may_follow(self, holder: Holder | None) -> bool:
        if holder is None or holder.released or holder.is_gone():
            return True
        if holder != self.holder:
            self.holder, self._seen_since = holder, time.monotonic()
        return time.monotonic() - self._seen_since > holder.period_s


def at_work(folder: Folder) -> Holder | None:
    """Who has the lease of a folder, as far as one look can tell; None: it can be had.

    A process of another host is taken for dead after an hour without a beat. That is a look at two clocks, so
    whoever wants to act on it asks a `Contender` first.
    """
    holder = _read(folder, _latest(folder))
    if holder is None or holder.released or holder.is_gone():
        return None
    is_silent = holder.host != this_host() and time.time() - holder.time > _SILENT_S
    return None if is_silent else holder


def clear(folder: Folder) -> None:
    """Remove every lease file. Only once a manifest stands: from then on it decides, and nobody needs a
    lease."""
    for name in folder.names("lease-*.json"):
        folder.delete(name)


class Heartbeat:
    """A thread that keeps the leases of a process alive."""

    def __init__(self, period_s: float) -> None:
        self._interval_s = period_s / 4
        self._held: dict[int, Lease] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def keep(self, lease: Lease) -> None:
        self._held[id(lease)] = lease

    def drop(self, lease: Lease) -> None:
        self._held.pop(id(lease), None)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            for lease in list(self._held.values()):
                try:
                    lease.beat()
                except OSError:
                    continue  # the storage may be back at the next beat; if not, others take over


def this_host() -> str:
    """Host name and, where there is one, the process namespace: containers may share a name, not their
    process ids."""
    try:
        return f"{socket.gethostname()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _name(generation: int) -> str:
    return f"lease-{generation:06d}.json"


def _latest(folder: Folder) -> int:
    """The highest generation; 0: nobody ever held it."""
    return max((int(name[6:12]) for name in folder.names("lease-??????.json")), default=0)


def _read(folder: Folder, generation: int) -> Holder | None:
    try:
        return Holder(**json.loads(folder.read(_name(generation))))
    except FileNotFoundError:
        return None
