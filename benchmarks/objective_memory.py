"""What the contrastive objective costs in memory and time, beside a dense computation of the same formula.

Run: python benchmarks/objective_memory.py
Every figure is of a child process of its own that computes loss and gradients, preset `paper`, float32, 1024
dimensions. Memory is what the peak resident size (VmHWM in /proc, reset once the inputs are made) rises above
the resident size before, less the gradients of the inputs: scores, masks, copies and what the allocator
keeps. A small batch is computed first, so that the libraries' own buffers are no part of it.
Bars: at N = 8192 rows with K = 7 hard negatives each at most 5 % of the dense memory, and 1.5 times the dense
time (the better of two runs each, in turn); at N = 32768, K = 0 at most 0.3 GB; over four sizes, each twice
the one before, memory at most doubles. The dense computation needs 14 GB free. The last line is JSON.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.objective.contrastive import ContrastiveBatch  # noqa: E402
from components.objective.distributed import contrastive_loss  # noqa: E402
from components.objective.objective import Objective  # noqa: E402

D = 1024
OBJECTIVE = Objective()
AGAINST_DENSE = (8192, 7)
LARGE = (32768, 0)
TABLE = [(1024, 7), (2048, 7), (4096, 7), (8192, 7)]
MEMORY_BAR = 0.05
TIME_BAR = 1.5
LARGE_BAR_GB = 0.3


def random_batch(rows: int, negatives: int) -> ContrastiveBatch:
    """N rows with K hard negatives each; the vectors are made in place, so that nothing else was resident."""
    generator = torch.Generator().manual_seed(0)

    def vectors(count: int) -> torch.Tensor:
        made = torch.empty(count, D).normal_(generator=generator)
        return made.div_(torch.linalg.vector_norm(made, dim=1, keepdim=True)).requires_grad_()

    return ContrastiveBatch(
        query_BD=vectors(rows),
        positive_BD=vectors(rows),
        negative_MD=vectors(rows * negatives),
        negative_row_M=torch.arange(rows).repeat_interleave(negatives),
        query_id_B=torch.arange(rows),
        positive_id_B=torch.arange(rows),
        negative_id_M=torch.arange(rows, rows + rows * negatives),
        known_positive_BP=torch.empty(rows, 0, dtype=torch.int64),
    )


def ours(batch: ContrastiveBatch) -> torch.Tensor:
    return contrastive_loss(batch, OBJECTIVE).share


def dense(batch: ContrastiveBatch) -> torch.Tensor:
    """The same loss by whole matrices and autograd; in place and term by term, to be a thrifty peer."""
    documents_CD = torch.cat([batch.positive_BD, batch.negative_MD])
    row_N = torch.arange(len(batch.query_BD))
    row_C = torch.cat([row_N, batch.negative_row_M])
    document_id_C = torch.cat([batch.positive_id_B, batch.negative_id_M])
    positive_N1 = (batch.query_BD * batch.positive_BD).sum(dim=1, keepdim=True)
    limit_N1 = positive_N1.detach() + OBJECTIVE.threshold

    def log_sum_exp(scores: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        scores.sub_(positive_N1).div_(OBJECTIVE.temperature).masked_fill_(masked, float("-inf"))
        return scores.logsumexp(dim=1)

    qd_NC = batch.query_BD @ documents_CD.T
    masked_NC = qd_NC.detach() > limit_N1
    masked_NC |= document_id_C == batch.positive_id_B[:, None]
    rest_N = log_sum_exp(qd_NC, masked_NC)
    dd_masked_NC = masked_NC | (row_C == row_N[:, None])
    rest_N = rest_N.logaddexp(log_sum_exp(batch.positive_BD @ documents_CD.T, dd_masked_NC))
    qq_NN = batch.query_BD @ batch.query_BD.T
    qq_masked_NN = qq_NN.detach() > limit_N1
    qq_masked_NN |= batch.query_id_B == batch.query_id_B[:, None]
    qq_masked_NN |= batch.positive_id_B == batch.positive_id_B[:, None]
    rest_N = rest_N.logaddexp(log_sum_exp(qq_NN, qq_masked_NN))
    return rest_N.logaddexp(torch.zeros_like(rest_N)).mean()


def measure(name: str, rows: int, negatives: int) -> dict[str, float]:
    """Loss and gradients once, in this process."""
    loss_of = {"ours": ours, "dense": dense}[name]
    _loss_and_gradients(loss_of, random_batch(64, negatives))
    batch = random_batch(rows, negatives)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began, cpu_began = time.perf_counter(), time.process_time()
    loss, gradients = _loss_and_gradients(loss_of, batch)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    rise = _resident("VmHWM") - before
    return {
        "loss": loss,
        "gradient": sum(float(gradient.abs().sum(dtype=torch.float64)) for gradient in gradients),
        "gb": (rise - sum(gradient.nbytes for gradient in gradients)) / 1e9,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def _loss_and_gradients(loss_of, batch: ContrastiveBatch) -> tuple[float, tuple[torch.Tensor, ...]]:
    loss = loss_of(batch)
    return loss.item(), torch.autograd.grad(loss, [batch.query_BD, batch.positive_BD, batch.negative_MD])


def _resident(field: str) -> int:
    """Bytes, of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def in_child(name: str, rows: int, negatives: int) -> dict[str, float]:
    command = [sys.executable, __file__, name, str(rows), str(negatives)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=dict(os.environ))
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:>6}  N = {rows:6d}  K = {negatives}  {found['gb']:8.3f} GB  {found['seconds']:8.1f} s"
        f"  {found['cpu_seconds']:8.1f} CPU s  loss {found['loss']:.6f}",
        flush=True,
    )
    return found


def main() -> int:
    found: dict[str, list[dict[str, float]]] = {"ours": [], "dense": []}
    for name in ("dense", "ours", "dense", "ours"):
        found[name].append(in_child(name, *AGAINST_DENSE))
    best = {name: {key: min(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    for key in ("loss", "gradient"):
        difference = abs(best["ours"][key] / best["dense"][key] - 1)
        assert difference < 1e-4, f"{key} of ours and dense differ by {difference:.1e}: not the same loss"
    table = [in_child("ours", *size) for size in TABLE[:-1]] + [best["ours"]]
    large = in_child("ours", *LARGE)

    memory_ratio = best["ours"]["gb"] / best["dense"]["gb"]
    time_ratio = best["ours"]["seconds"] / best["dense"]["seconds"]
    growth = [after["gb"] / before["gb"] for before, after in itertools.pairwise(table)]
    holds = (
        memory_ratio <= MEMORY_BAR
        and time_ratio <= TIME_BAR
        and large["gb"] <= LARGE_BAR_GB
        and max(growth) <= 2
    )
    rows, negatives = AGAINST_DENSE
    score_matrices_gb = 2 * rows * rows * (1 + negatives) * 4 / 1e9
    line = {
        "benchmark": "objective_memory",
        "ours": round(best["ours"]["gb"], 4),
        "peer": round(best["dense"]["gb"], 3),
        "ratio": round(memory_ratio, 4),
        "bar": MEMORY_BAR,
        "holds": holds,
        "detail": {
            "unit": "GB beyond the inputs and their gradients, N = 8192, K = 7",
            "share_of_the_two_score_matrices": round(best["ours"]["gb"] / score_matrices_gb, 4),
            "time_ratio": round(time_ratio, 3),
            "time_bar": TIME_BAR,
            "cpu_time_ratio": round(best["ours"]["cpu_seconds"] / best["dense"]["cpu_seconds"], 3),
            "threads": torch.get_num_threads(),
            "seconds": {name: round(values["seconds"], 1) for name, values in best.items()},
            "gb_at_n_32768_k_0": round(large["gb"], 4),
            "gb_bar_at_n_32768_k_0": LARGE_BAR_GB,
            "gb_by_n_at_k_7": {
                str(size[0]): round(each["gb"], 4) for size, each in zip(TABLE, table, strict=True)
            },
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
        sys.exit(0)
    sys.exit(main())
