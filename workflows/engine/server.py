"""A local MLflow server over one SQLite file, so that no two processes open the file.

It is started detached, outlives the submission that needed it, and is found again by the next through
`server.json`.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_RECORD = "server.json"


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    process_started: float
    port: int
    log: str

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return process.status() != psutil.STATUS_ZOMBIE and process.create_time() == self.process_started
        except psutil.NoSuchProcess:
            return False

    def wait(self, timeout_s: float = 90.0) -> None:
        """Until it answers. Raises ValueError if it ended or does not answer in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            alive = self.is_alive()
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            if not alive:
                said = Path(self.log).read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise ValueError(f"the MLflow server ended as it started: {said[-1]} (all of it: {self.log})")
            time.sleep(0.1)
        raise ValueError(
            f"the MLflow server at {self.uri} did not answer within {timeout_s:.0f} s; see {self.log}"
        )


def start(directory: Path | str, port: int | None = None) -> Server:
    """The server of a directory: the one that runs, or a new one. Returns at once; see `Server.wait`.

    Args:
        directory: holds `mlflow.db`, `artifacts/`, `server.json` and `server.log`.
        port: on 127.0.0.1; any free one by default.

    Raises:
        ValueError: the port is in use, or the directory's server runs on another.
    """
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        last = _last(directory)
        if last and last.is_alive():
            if port not in (None, last.port):
                raise ValueError(
                    f"the MLflow server of {directory} already runs on port {last.port}, not {port}"
                )
            return last
        port = _port(port, last)
        with open(directory / "server.log", "ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                    *("--backend-store-uri", f"sqlite:///{directory / 'mlflow.db'}"),
                    *("--artifacts-destination", str(directory / "artifacts")),
                    *("--workers", "1", "--uvicorn-opts", "--log-level warning --no-access-log"),
                ],
                cwd=directory,
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "DO_NOT_TRACK": "true",
                    # Its queue workers (for judging traces) are seven more processes.
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        server = Server(
            process.pid, psutil.Process(process.pid).create_time(), port, str(directory / "server.log")
        )
        (directory / _RECORD).write_text(json.dumps(asdict(server)))
        return server


def find(directory: Path | str) -> Server | None:
    """The server of a directory, if it runs."""
    last = _last(Path(directory))
    return last if last and last.is_alive() else None


def stop(directory: Path | str) -> bool:
    """End the server of a directory. False: none ran."""
    with _locked(Path(directory)):
        server = find(directory)
        if server is None:
            return False
        process = psutil.Process(server.pid)
        os.killpg(server.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
        return True


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with open(directory / "server.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last(directory: Path) -> Server | None:
    """The server that was started last; it may have ended."""
    try:
        return Server(**json.loads((directory / _RECORD).read_text()))
    except FileNotFoundError:
        return None


def _port(wanted: int | None, last: Server | None) -> int:
    """A port that is free: the one asked for, else the last one, so that links to runs stay valid, else
    any."""
    if wanted is None and last is not None:
        with contextlib.suppress(OSError):
            return _bind(last.port)
    try:
        return _bind(wanted or 0)
    except OSError as error:
        raise ValueError(
            f"port {wanted} on 127.0.0.1 cannot be used ({error.strerror}); name another or leave it out"
        ) from error


def _bind(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return probe.getsockname()[1]
