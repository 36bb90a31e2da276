"""Functions of the steps that the engine's tests run. `calls` is a folder in which every call leaves one
file."""

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from components.monitor import Monitor
from components.storage import Folder
from workflows.engine.store import Followed


def _note(calls: str) -> int:
    Path(calls).mkdir(parents=True, exist_ok=True)
    (Path(calls) / uuid.uuid4().hex).touch()
    return len(list(Path(calls).iterdir()))


def write(
    *, text: str, output: Folder, monitor: Monitor, calls: str, seconds: float = 0.0
) -> dict[str, float]:
    _note(calls)
    monitor.progress(1, 4, "parts")
    time.sleep(seconds)
    output.write("part/text.txt", text.encode())
    return {"characters": len(text)}


def join(*, output: Folder, monitor: Monitor, calls: str, **parts: Folder) -> dict[str, float]:
    _note(calls)
    output.write("text.txt", b"+".join(parts[key].read("part/text.txt") for key in sorted(parts)))
    return {"parts": len(parts)}


def read_part(*, part: Folder, output: Folder, monitor: Monitor) -> dict[str, float]:
    output.write("copy.txt", part.read("text.txt"))
    return {}


def refuse(*, output: Folder, monitor: Monitor, calls: str) -> dict[str, float]:
    _note(calls)
    raise ValueError("temperature is -1; it must be above 0\nsecond line")


def break_down(*, output: Folder, monitor: Monitor, calls: str) -> dict[str, float]:
    _note(calls)
    return {"x": {}["missing"]}


def die_once(*, output: Folder, monitor: Monitor, state: Folder, calls: str) -> dict[str, float]:
    """Loses its worker process at the first call, and finds at the second what the first had kept."""
    if _note(calls) == 1:
        output.write("half.txt", b"half")
        state.write("progress.txt", b"from the first attempt")
        os.kill(os.getpid(), signal.SIGKILL)
    output.write("whole.txt", state.read("progress.txt"))
    return {}


def die_always(*, output: Folder, monitor: Monitor, calls: str) -> dict[str, float]:
    _note(calls)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def lose_actor_once(*, output: Folder, monitor: Monitor, calls: str) -> dict[str, float]:
    """An actor that the step uses dies at the first call."""
    import ray

    first = _note(calls) == 1

    @ray.remote(num_cpus=0)
    class Helper:
        def work(self) -> int:
            if first:
                os._exit(1)
            return 1

    return {"worked": ray.get(Helper.remote().work.remote())}


def report(*, output: Folder, monitor: Monitor, rows: int) -> dict[str, float]:
    """Uses everything a monitor offers."""
    from matplotlib.figure import Figure

    for row in range(rows):
        monitor.progress(row + 1, rows, "rows", loss=1.0 / (row + 1))
        monitor.metrics({"loss": 1.0 / (row + 1)}, step=row)
    monitor.params({"device": "cpu"})
    figure = Figure()
    figure.add_subplot().plot([1.0, 0.5])
    monitor.figure("loss.png", figure)
    monitor.artifact("table.json", b"{}")
    return {"ndcg@10": 0.5, "rows_out": rows}


def is_registered(output: Folder, **execution: Any) -> bool:
    """A `confirm`: the effect outside the store is a file."""
    return (Path(execution["registry"]) / "entry").exists()


def register(*, output: Folder, monitor: Monitor, registry: str) -> dict[str, float]:
    Path(registry).mkdir(exist_ok=True)
    (Path(registry) / "entry").touch()
    return {}


def name_changes(previous: Folder, text: str) -> str:
    """An `explain`."""
    return f"was {previous.read('part/text.txt').decode()!r}"


def work_in_parts(
    *, output: Folder, monitor: Monitor, state: Folder, calls: str, fails: bool = False
) -> dict[str, float]:
    """Leaves a part, and ends once somebody who follows has read it, or after some seconds."""
    state.write("part.txt", b"part")
    for _ in range(100):
        if Path(calls, "read").exists():
            break
        time.sleep(0.1)
    if fails:
        raise ValueError("it could not go on")
    output.write("part.txt", b"whole")
    return {"was_read": float(Path(calls, "read").exists())}


def follow(*, work: Followed, output: Folder, monitor: Monitor, calls: str) -> dict[str, float]:
    """Reads what is there, and again at the end."""
    found = []
    if work.output() is None:
        while not work.state.exists("part.txt"):
            time.sleep(0.1)
        found.append(work.state.read("part.txt"))
        Path(calls).mkdir(parents=True, exist_ok=True)
        Path(calls, "read").touch()
    while (result := work.output()) is None:
        time.sleep(0.1)
    found.append(result.read("part.txt"))
    output.write("text.txt", b"+".join(found))
    return {}
