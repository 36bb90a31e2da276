"""What a reranker's full-vocabulary loss costs in memory beside the naive one over every position.

Run: python benchmarks/reranker_loss.py [--texts 32] [--vocabulary 49152]
Head and loss alone, forward and backward: 32 texts of 512 tokens, 576 dimensions, a vocabulary of 49,152, float32.
Naive: logits of every position, with labels that count at the last one alone, as trainers of language models do it.
Every figure is of a child process of its own: what the peak resident size (VmHWM, reset once the inputs are made)
rises above the resident size before, less the gradients of hidden states and head. Bars: at most a tenth of the naive
memory, and losses equal to 1e-6. The naive computation needs 12 GB free. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.objective.yes_no import full_vocabulary_loss  # noqa: E402

T, D = 512, 576
BAR = 0.1
EQUAL = 1e-6


def ours(hidden_BTD: torch.Tensor, head_VD: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
    return full_vocabulary_loss(hidden_BTD[:, -1] @ head_VD.T, token_B).mean()


def naive(hidden_BTD: torch.Tensor, head_VD: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
    label_BT = torch.full(hidden_BTD.shape[:2], -100)
    label_BT[:, -1] = token_B
    return cross_entropy((hidden_BTD @ head_VD.T).flatten(0, 1), label_BT.flatten())


def measure(name: str, B: int, V: int) -> dict[str, float]:
    loss_of = {"ours": ours, "naive": naive}[name]

    def inputs(texts: int, tokens: int, words: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        hidden_BTD = torch.empty(texts, tokens, D).normal_(generator=generator).requires_grad_()
        head_VD = torch.empty(words, D).normal_(0, 0.02, generator=generator).requires_grad_()
        return hidden_BTD, head_VD, torch.randint(0, words, (texts,), generator=generator)

    loss_of(*inputs(2, 8, 64)).backward()  # the libraries' own buffers
    hidden_BTD, head_VD, token_B = inputs(B, T, V)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    began = time.perf_counter()
    loss = loss_of(hidden_BTD, head_VD, token_B)
    loss.backward()
    seconds = time.perf_counter() - began
    rise = resident("VmHWM") - before
    return {
        "loss": loss.item(),
        "gb": max(rise - hidden_BTD.nbytes - head_VD.nbytes, 0) / 1e9,
        "seconds": seconds,
    }


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--measure", choices=["ours", "naive"], help="One of the two, in this process.")
    options = parser.parse_args()
    B, V = options.texts, options.vocabulary
    if options.measure:
        print(json.dumps(measure(options.measure, B, V)))
        return 0
    found = {}
    sizes = ["--texts", str(B), "--vocabulary", str(V)]
    for name in ("ours", "naive"):
        done = subprocess.run(
            [sys.executable, __file__, *sizes, "--measure", name],
            capture_output=True, text=True, check=True, timeout=600,
        )  # fmt: skip
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:6s} {found[name]['gb']:.3f} GB  {found[name]['seconds']:.2f} s  loss {found[name]['loss']:.7f}"
        )
    ratio = found["ours"]["gb"] / found["naive"]["gb"]
    difference = abs(found["ours"]["loss"] - found["naive"]["loss"])
    holds = ratio <= BAR and difference <= EQUAL * max(1.0, abs(found["naive"]["loss"]))
    line = {
        "benchmark": "reranker_loss",
        "ours": round(found["ours"]["gb"], 4),
        "peer": round(found["naive"]["gb"], 4),
        "ratio": round(ratio, 4),
        "bar": BAR,
        "holds": holds,
        "detail": {
            "unit": "GB", "texts": B, "tokens": T, "dimensions": D, "vocabulary": V,
            "loss_difference": difference, "seconds": {name: round(found[name]["seconds"], 3) for name in found},
        },
    }  # fmt: skip
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
