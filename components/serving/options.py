"""Where and how a service runs; none of it changes a vector."""

import ipaddress
from dataclasses import asdict, dataclass, field

from components.serving.errors import OpenServiceError
from components.serving.keys import ApiKey

DOCUMENTS = "embedloom-documents"
"""The application of the page's documents."""


@dataclass(frozen=True)
class EngineChoice:
    """`EngineOptions` of `engine.py`, said here so that nothing heavy is imported."""

    engine: str | None = None
    precision: str | None = None
    threads: int = 0
    tokens_per_pass: int = 2048
    gpu_memory: float = 0.3


@dataclass(frozen=True)
class ServiceOptions:
    """How a service runs.

    Attributes:
        host: only this machine by default; another needs keys.
        own_port: the gateway listens itself; False: Serve's proxies do, one on each node of a cluster.
        keys: who may ask; none: everybody on this machine.
        documents: Parquet of documents for the page.
        replicas, max_replicas: of each model version; more than `replicas` are started under load.
        cpus: reserved for a replica in Ray. On a machine of its own 0 will do.
        tokens_per_batch: tokens computed together.
        max_waiting_tokens: waiting tokens of a replica above which requests are turned away with 429.
        max_wait_s: so is a request that would wait longer, by the speed of the last batches.
        max_request_tokens: a request of more tokens gets 400.
        max_ongoing_requests: requests at a replica. As many as a gateway lets in, so that the replica, which knows how
            long they will wait, is the one to refuse.
        max_queued_requests: requests that wait for a replica, in each gateway; more get 429.
        request_timeout_s: after it a request is given up with 503.
        startup_timeout_s: how long a version may take to come up.
        max_memory_gib: what a version may take; one that needs more is refused. 0: no limit.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    own_port: bool = True
    keys: tuple[ApiKey, ...] = ()
    documents: str | None = None
    engine: EngineChoice = field(default_factory=EngineChoice)
    gateways: int = 1
    replicas: int = 1
    max_replicas: int = 1
    cpus: float = 0.0
    gpus: float = 0.0
    tokens_per_batch: int = 4096
    max_waiting_tokens: int = 262_144
    max_wait_s: float = 20.0
    max_request_tokens: int = 300_000
    max_ongoing_requests: int = 1024
    max_queued_requests: int = 256
    request_timeout_s: float = 60.0
    startup_timeout_s: float = 300.0
    max_memory_gib: float = 0.0

    def check(self) -> None:
        """Raises OpenServiceError if anybody on the network could use it."""
        if not self.keys and not is_loopback(self.host):
            raise OpenServiceError(
                f"without API keys a service listens on this machine only, not on {self.host}: make a key with "
                "`embedloom key NAME`, or leave --host out"
            )

    def key_rows(self) -> list[dict[str, object]]:
        return [asdict(key) for key in self.keys]


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant by it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
