"""A cluster of several machines on one: every node in a network namespace of its own, behind a bridge.

Nodes reach each other, and this machine, over the bridge alone; a port of one is no port of another. Needs Linux, root
and `ip` (iproute2). What a node writes to /tmp is not apart.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

BRIDGE = "embedloom0"
SUBNET = "10.77.61"
HOST = f"{SUBNET}.1"
"""This machine, as nodes see it."""


@dataclass(frozen=True)
class Node:
    """One of the machines."""

    name: str
    address: str

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Run a command on the node until `kill`."""
        with log.open("ab") as output:
            subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | environment, start_new_session=True,
            )  # fmt: skip

    def processes(self, words: str = "") -> list[psutil.Process]:
        """Those on the node whose command line holds these words."""
        told = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        found = []
        for pid in told.stdout.split():
            with suppress(psutil.Error):
                process = psutil.Process(int(pid))
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """As when the power goes."""
        while processes := self.processes():
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(processes, timeout=5)


@contextmanager
def nodes(*names: str) -> Iterator[list[Node]]:
    """So many machines; their processes are killed at the end.

    Raises:
        RuntimeError: this process may not make them.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise RuntimeError("network namespaces need root and the command `ip` (Debian: iproute2)")
    made = [Node(f"embedloom-{name}", f"{SUBNET}.{number}") for number, name in enumerate(names, start=2)]
    _ip("link", "add", BRIDGE, "type", "bridge")
    try:
        _ip("address", "add", f"{HOST}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number, node in enumerate(made):
            outside, inside = f"embedloom-o{number}", f"embedloom-i{number}"
            _ip("netns", "add", node.name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
            _ip("link", "set", outside, "master", BRIDGE, "up")
            _ip("link", "set", inside, "netns", node.name)
            for command in (
                ("address", "add", f"{node.address}/24", "dev", inside),
                ("link", "set", inside, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-netns", node.name, *command)
        yield made
    finally:
        present = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
        for node in made:
            if node.name in present:
                node.kill()
                _ip("netns", "delete", node.name)
        _ip("link", "delete", BRIDGE)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
