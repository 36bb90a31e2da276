"""API keys: who may ask, and how much. Only their SHA-256 is kept; a key is 32 random bytes, so that is enough."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from components.serving.errors import KeyFileError

_PREFIX = "el-"


@dataclass(frozen=True)
class ApiKey:
    """One key.

    Attributes:
        name: whose it is; shown in metrics.
        sha256: hex digest of the key.
        requests_per_minute, tokens_per_minute: 0: no limit. Tokens are counted when they have been read by the
            model, so that the request which exceeds the limit is still answered.
    """

    name: str
    sha256: str
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file that `add_key` wrote; none if there is no file.

    Raises:
        KeyFileError: it is not such a file.
    """
    if not path.exists():
        return []
    try:
        return [ApiKey(**row) for row in json.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is no file of API keys: {error}") from error


def add_key(path: Path, name: str, requests_per_minute: int = 0, tokens_per_minute: int = 0) -> str:
    """Make a key for `name`, in place of one it has, and return it: it stands nowhere else.

    Raises:
        KeyFileError: the file is there and holds something else.
    """
    key = _PREFIX + secrets.token_urlsafe(32)
    others = [each for each in read_keys(path) if each.name != name]
    rows = [*others, ApiKey(name, digest(key), requests_per_minute, tokens_per_minute)]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a file cut short would lock everybody out.
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8")
    temporary.replace(path)
    return key


class Allowance:
    """A token bucket that holds a minute's worth. `limit` 0: it never empties."""

    def __init__(self, limit: float, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        self._left = limit
        self._at = now()

    def wait_s(self) -> float:
        """Seconds until something is left; 0 if something is."""
        if not self._limit:
            return 0.0
        now = self._now()
        self._left = min(self._limit, self._left + (now - self._at) * self._limit / 60)
        self._at = now
        return 0.0 if self._left >= 1 else (1 - self._left) * 60 / self._limit

    def take(self, amount: float) -> None:
        """May go below zero: then it takes longer until something is left."""
        self._left -= amount


class KeyRing:
    """The keys that a gateway knows, and what is left of each one's allowance.

    Args:
        keys: none: everybody may ask.
        gateways: among how many gateways the limits are shared out.
    """

    def __init__(self, keys: list[ApiKey], gateways: int = 1) -> None:
        self._by_digest = {key.sha256: key for key in keys}
        self._requests = {key.name: Allowance(key.requests_per_minute / gateways) for key in keys}
        self._tokens = {key.name: Allowance(key.tokens_per_minute / gateways) for key in keys}

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._by_digest

    def find(self, key: str) -> ApiKey | None:
        # By digest: how long the search takes says nothing about the key.
        return self._by_digest.get(digest(key))

    def admit(self, key: ApiKey) -> float:
        """Count a request. Returns 0, or the seconds after which the key may ask again."""
        wait_s = max(self._requests[key.name].wait_s(), self._tokens[key.name].wait_s())
        if not wait_s:
            self._requests[key.name].take(1)
        return wait_s

    def count_tokens(self, name: str, tokens: int) -> None:
        self._tokens[name].take(tokens)
