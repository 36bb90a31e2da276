"""Promotions and other changes of one registry, or of one service, take turns on a machine."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time(uri: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a registry or service, by its address; whoever waits for it is told so."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedloom"
    root.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    with open(root / f"promotion-{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another promotion is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
