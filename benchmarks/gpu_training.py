"""Training on one GPU: the Qwen3 architecture of 0.6B with random weights, 512 tokens a text, bfloat16.

Run: python benchmarks/gpu_training.py
A step is forward, loss, backward and optimizer, sharded by FSDP2 over the one GPU; tokens are random and all texts
are as long, so nothing is padded. Printed are the model-FLOPs utilisation (model FLOPs a second over the GPU's own
rate of matrix products, measured in the same run) and the peak memory of a batch whose graphs are all kept, and of
one sixteen times as large through the gradient cache; then time and memory of the objective at N = 65536.
The bar: a utilisation of 50 % with all graphs kept. The last line is JSON. Without a GPU it says that it has not
run and exits with 2.
"""

import gc
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from components.model.embedder import Embedder  # noqa: E402
from components.model.spec import EncodingSpec  # noqa: E402
from components.objective.contrastive import ContrastiveBatch  # noqa: E402
from components.objective.distributed import contrastive_loss  # noqa: E402
from components.objective.objective import Objective  # noqa: E402
from components.training.batch import Ragged, WorkerBatch  # noqa: E402
from components.training.flops import count_flops, matrix_product_rate  # noqa: E402
from components.training.micro_batches import MicroBatching  # noqa: E402
from components.training.prepare import prepare_model  # noqa: E402
from components.training.sharding import make_optimizer, shard_model  # noqa: E402
from components.training.step import accumulate_gradients  # noqa: E402

QWEN3_06B = Qwen3Config(
    vocab_size=151936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=32768,
    use_cache=False,
)
LENGTH = 512
ROWS, CACHED_ROWS = 32, 512
MICRO_BATCH_TOKENS = 16384
STEPS, WARM_UP = 8, 3
OBJECTIVE_ROWS = 65536
MFU_BAR = 0.5


@dataclass(frozen=True)
class Measured:
    """Of one step: median seconds, utilisation (0 to 1), and the most memory held at a time."""

    seconds: float
    mfu: float
    peak_gb: float


def random_embedder(config: Qwen3Config, device: torch.device) -> Embedder:
    """Pooling at the last token, as the Qwen3 embedding models have it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>")),
        unk_token="<unk>",
        pad_token="<unk>",
    )
    spec = EncodingSpec(
        query_length=LENGTH, document_length=LENGTH, dimensions=config.hidden_size, pooling="last"
    )
    torch.manual_seed(0)
    with device:
        return Embedder(Qwen3Model(config), spec, tokenizer)


def random_batch(rows: int, vocabulary: int) -> WorkerBatch:
    tokens = np.random.default_rng(0).integers(0, vocabulary, 2 * rows * LENGTH)
    return WorkerBatch(
        task="",
        rows=np.arange(rows),
        tokens=Ragged(tokens, np.arange(2 * rows + 1) * LENGTH),
        identities=np.arange(2 * rows),
        negative_rows=np.array([], dtype=np.int64),
        known_positives=Ragged(np.array([], dtype=np.int64), np.zeros(rows + 1, dtype=np.int64)),
        scores=np.full(rows, np.nan, dtype=np.float32),
        global_tokens=2 * rows * LENGTH,
    )


def training_step(
    config: Qwen3Config, rows: int, graph_tokens: int, device: torch.device, group: dist.ProcessGroup
) -> Measured:
    embedder = random_embedder(config, device)
    prepare_model(embedder, "all", dropout=None, activation_checkpointing=False)
    flops = count_flops(embedder.backbone)
    shard_model(embedder, DeviceMesh.from_group(group, device.type), "bfloat16")
    optimizer = make_optimizer(embedder, 1e-5, 0.01, (0.9, 0.999))
    rate = matrix_product_rate(torch.bfloat16, device, group)
    batch = random_batch(rows, config.vocab_size)
    cut = MicroBatching(MICRO_BATCH_TOKENS, graph_tokens, "micro_batch")
    reset_peak(device)
    seconds = []
    for _ in range(WARM_UP + STEPS):
        began = time.perf_counter()
        accumulate_gradients(embedder, batch, Objective(), cut, group)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds[WARM_UP:])
    return Measured(median, flops.of(batch.tokens.lengths) / median / rate, peak_gb(device))


def objective(rows: int, dimensions: int, device: torch.device) -> tuple[float, float]:
    """Seconds of forward and backward, and GB beyond the vectors and their gradients."""
    generator = torch.Generator(device).manual_seed(0)

    def vectors() -> torch.Tensor:
        drawn = torch.randn(rows, dimensions, device=device, generator=generator)
        return torch.nn.functional.normalize(drawn, dim=-1).requires_grad_()

    ids = torch.arange(rows, device=device)
    none = torch.empty(0, dtype=torch.int64, device=device)
    batch = ContrastiveBatch(
        query_BD=vectors(),
        positive_BD=vectors(),
        negative_MD=torch.empty(0, dimensions, device=device),
        negative_row_M=none,
        query_id_B=ids,
        positive_id_B=ids,
        negative_id_M=none,
        known_positive_BP=ids.new_full((rows, 1), -1),
    )
    seconds = []
    for _ in range(3):
        batch.query_BD.grad = batch.positive_BD.grad = None
        reset_peak(device)
        began = time.perf_counter()
        contrastive_loss(batch, Objective()).share.backward()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    own_gb = 4 * rows * dimensions * 4 / 1e9  # two sides and their gradients in float32
    return min(seconds), peak_gb(device) - own_gb


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    gc.collect()  # a sharded model refers to itself
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")


def main() -> int:
    if not torch.cuda.is_available():
        print("there is no GPU here: this benchmark has not run")
        return 2
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    with tempfile.TemporaryDirectory() as directory:
        dist.init_process_group("nccl", rank=0, world_size=1, store=dist.FileStore(f"{directory}/store", 1))
        group = dist.group.WORLD
        assert group is not None
        kept = training_step(QWEN3_06B, ROWS, 10**9, device, group)
        cached = training_step(QWEN3_06B, CACHED_ROWS, 0, device, group)
        dist.destroy_process_group()
    objective_s, objective_gb = objective(OBJECTIVE_ROWS, QWEN3_06B.hidden_size, device)
    for what, measured, rows in (("all graphs kept", kept, ROWS), ("through the cache", cached, CACHED_ROWS)):
        print(
            f"{rows:4d} rows, {what}: {measured.seconds:.2f} s a step, utilisation {measured.mfu:.1%}, "
            f"peak {measured.peak_gb:.1f} GB"
        )
    print(f"objective at N = {OBJECTIVE_ROWS}: {objective_s:.2f} s, {objective_gb:.2f} GB beyond its vectors")
    holds = kept.mfu >= MFU_BAR
    line = {
        "benchmark": "gpu_training",
        "ours": round(kept.mfu, 3),
        "peer": 1.0,
        "ratio": round(kept.mfu, 3),
        "bar": MFU_BAR,
        "holds": holds,
        "detail": {
            "unit": "model-FLOPs utilisation",
            "gpu": torch.cuda.get_device_name(device),
            "tokens_a_text": LENGTH,
            "micro_batch_tokens": MICRO_BATCH_TOKENS,
            "rows": ROWS,
            "step_s": round(kept.seconds, 3),
            "peak_gb": round(kept.peak_gb, 1),
            "cached_rows": CACHED_ROWS,
            "cached_step_s": round(cached.seconds, 3),
            "cached_mfu": round(cached.mfu, 3),
            "cached_peak_gb": round(cached.peak_gb, 1),
            "objective_rows": OBJECTIVE_ROWS,
            "objective_s": round(objective_s, 3),
            "objective_gb": round(objective_gb, 2),
        },
    }
    print(json.dumps(line))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
