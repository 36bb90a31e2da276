"""Gradients of the gradient cache under FSDP2 against plain autograd.

Without dropout against one process with the whole batch; with dropout against the same micro-batches on a
model that is not sharded, every graph kept, the gradients averaged over the workers by hand.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from gloo import run_workers
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from training_rows import pair_table, write_plan

from components.model.embedder import Embedder
from components.model.tokens import batches_by_length
from components.objective.contrastive import ContrastiveBatch
from components.objective.distributed import contrastive_loss
from components.objective.objective import Objective
from components.storage import Folder
from components.training.batch import WorkerBatch
from components.training.gradient_cache import GradientSync
from components.training.micro_batches import MicroBatching
from components.training.prepare import prepare_model
from components.training.sharding import shard_model
from components.training.step import accumulate_gradients, contrastive_batch
from components.training.stream import stream_batches
from components.training.temperature import add_log_temperature, average_gradient

OBJECTIVE = Objective(temperature=0.1, learnable_temperature=True)
SCALARS = ("loss", "log_temperature")
BATCH_SIZE = 9  # of two workers one gets five rows, of four one gets three
ALL, SOME, NONE = 10**9, 100, 0  # tokens whose graph is kept
SYNCS: list[GradientSync] = ["micro_batch", "step"]
CUTS = [MicroBatching(60, graph_tokens, sync) for sync in SYNCS for graph_tokens in (ALL, SOME, NONE)]
OTHER_MICRO_BATCHES = [MicroBatching(10000, ALL, "micro_batch"), MicroBatching(35, SOME, "micro_batch")]

Gradients = dict[str, torch.Tensor]


def own_batch(group: dist.ProcessGroup, batches: Folder, step: int = 0) -> WorkerBatch:
    return next(stream_batches(batches, step, dist.get_rank(group), dist.get_world_size(group)))


def sharded(group: dist.ProcessGroup, model: Path, cut: MicroBatching, again: bool = False) -> Embedder:
    embedder = Embedder.load(model)
    prepare_model(embedder, "all", dropout=None, activation_checkpointing=again)
    add_log_temperature(embedder, OBJECTIVE.temperature)
    shard_model(embedder, DeviceMesh.from_group(group, "cpu"), "float32", cut.gradient_sync)
    return embedder


def accumulate(
    embedder: Embedder, batch: WorkerBatch, cut: MicroBatching, group: dist.ProcessGroup, weight: float = 1.0
) -> dict[str, float]:
    return accumulate_gradients(embedder, batch, OBJECTIVE, cut, group, weight)


def averaged_gradients(embedder: Embedder, group: dist.ProcessGroup) -> Gradients:
    average_gradient(embedder.get_parameter("log_temperature"), group)
    gradients = {name: p.grad for name, p in embedder.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in gradients.items()}


def cached_gradients(
    group: dist.ProcessGroup, model: Path, batches: Folder, cuts: list[MicroBatching], again: bool = False
) -> list[tuple[Gradients, int]]:
    """For each cut what FSDP2 and the gradient cache leave in the parameters, and how often they encoded."""
    found = []
    for cut in cuts:
        embedder = sharded(group, model, cut, again)
        calls: list[None] = []
        embedder.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        torch.manual_seed(dist.get_rank(group))
        statistics = accumulate(embedder, own_batch(group, batches), cut, group)
        gradients = averaged_gradients(embedder, group)
        found.append((gradients | {"loss": torch.tensor(statistics["loss"])}, len(calls)))
    return found


def accumulated_gradients(group: dist.ProcessGroup, model: Path, batches: Folder) -> list[Gradients]:
    found = []
    for cut in CUTS:
        embedder = sharded(group, model, cut)
        for step in (0, 1):
            accumulate(embedder, own_batch(group, batches, step), cut, group, weight=0.5)
        found.append(averaged_gradients(embedder, group))
    return found


def uncached_gradients(
    group: dist.ProcessGroup, model: Path, batches: Folder, micro_batch_tokens: int
) -> tuple[Gradients, int]:
    """The same micro-batches and draws by one backward through all graphs, and this worker's micro-batches."""
    embedder = Embedder.load(model)
    prepare_model(embedder, "all", dropout=None, activation_checkpointing=False)
    batch = own_batch(group, batches)
    texts = [ids.tolist() for ids in batch.tokens]
    own = list(batches_by_length([len(ids) for ids in texts], micro_batch_tokens))
    counts = [0] * dist.get_world_size(group)
    dist.all_gather_object(counts, len(own), group=group)
    torch.manual_seed(dist.get_rank(group))
    for _ in range(max(counts) - len(own)):  # what an idle worker draws meanwhile
        embedder(*embedder.pad([texts[own[-1][-1]]]))
    outputs = [embedder(*embedder.pad([texts[i] for i in positions])) for positions in reversed(own)]
    order = np.argsort(np.concatenate(own[::-1]))
    log_temperature = add_log_temperature(embedder, OBJECTIVE.temperature)
    loss = contrastive_loss(
        contrastive_batch(batch, torch.cat(outputs)[order]), OBJECTIVE, group, log_temperature.exp()
    )
    loss.share.backward()
    gradients = {name: p.grad for name, p in embedder.named_parameters() if p.grad is not None}
    for gradient in gradients.values():
        dist.all_reduce(gradient, group=group)
    return gradients | {"loss": torch.tensor(loss.statistics["loss"])}, len(own)


def with_dropout(group: dist.ProcessGroup, model: Path, batches: Folder) -> tuple:
    cached = cached_gradients(group, model, batches, CUTS)
    checkpointed = cached_gradients(group, model, batches, [CUTS[1], CUTS[4]], again=True)
    return cached, checkpointed, uncached_gradients(group, model, batches, 60)


def without_dropout(group: dist.ProcessGroup, model: Path, batches: Folder) -> tuple:
    cached = cached_gradients(group, model, batches, CUTS + OTHER_MICRO_BATCHES)
    return cached, accumulated_gradients(group, model, batches)


def whole_batch_gradients(model: Path, batches: Folder, step: int) -> Gradients:
    """One forward a text, no padding, no micro-batches, plain autograd."""
    embedder = Embedder.load(model).train()
    batch = next(stream_batches(batches, step, 0, 1))
    vectors = torch.cat([embedder(*embedder.pad([ids.tolist()])) for ids in batch.tokens])
    query_BD, positive_BD, negative_MD = vectors.split([BATCH_SIZE, BATCH_SIZE, len(batch.negative_rows)])
    query_id_B, positive_id_B, negative_id_M = torch.from_numpy(batch.identities).split(
        [BATCH_SIZE, BATCH_SIZE, len(batch.negative_rows)]
    )
    log_temperature = add_log_temperature(embedder, OBJECTIVE.temperature)
    width = max(batch.known_positives.lengths)
    known = [[*ids.tolist(), *[-1] * (width - len(ids))] for ids in batch.known_positives]
    loss = contrastive_loss(
        ContrastiveBatch(
            query_BD=query_BD,
            positive_BD=positive_BD,
            negative_MD=negative_MD,
            negative_row_M=torch.from_numpy(batch.negative_rows),
            query_id_B=query_id_B,
            positive_id_B=positive_id_B,
            negative_id_M=negative_id_M,
            known_positive_BP=torch.tensor(known, dtype=torch.int64).reshape(BATCH_SIZE, width),
        ),
        OBJECTIVE,
        temperature=log_temperature.exp(),
    ).share
    loss.backward()
    gradients = {name: p.grad for name, p in embedder.named_parameters() if p.grad is not None}
    return gradients | {"loss": loss.detach().double()}


def assert_equal(gradients: Gradients, expected: Gradients) -> None:
    assert gradients.keys() == expected.keys()
    for name in SCALARS:
        assert float(gradients[name]) == pytest.approx(float(expected[name]), rel=1e-5)
    scale = max(float(gradient.abs().max()) for name, gradient in expected.items() if name not in SCALARS)
    for name in expected.keys() - SCALARS:
        assert float((gradients[name] - expected[name]).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_equal_one_process(tmp_path: Path, tiny_model: Path, workers: int) -> None:
    batches = write_plan(tiny_model, tmp_path, pair_table(20), batch_size=BATCH_SIZE)
    one, other = (whole_batch_gradients(tiny_model, batches, step) for step in (0, 1))
    mean = {name: (gradient + other[name]) / 2 for name, gradient in one.items()}
    for cached, accumulated in run_workers(
        without_dropout, workers, tmp_path / "workers", tiny_model, batches
    ):
        for gradients, _ in cached:
            assert_equal(gradients, one)
        for gradients in accumulated:
            assert_equal(gradients | {"loss": mean["loss"]}, mean)


def test_a_trainable_pooling_is_sharded_as_the_rest(tmp_path: Path, tiny_model: Path) -> None:
    embedder = Embedder.load(tiny_model)
    spec = replace(
        embedder.spec, pooling="multi_layer_trainable", pooling_queries=3, projection="mlp",
        projection_dimensions=20, dimensions=20,
    )  # fmt: skip
    Embedder(embedder.backbone, spec, embedder.tokenizer).save(tmp_path / "pooled")
    batches = write_plan(tmp_path / "pooled", tmp_path, pair_table(20), batch_size=BATCH_SIZE)
    one = whole_batch_gradients(tmp_path / "pooled", batches, 0)
    assert {"pooling.attention.query_QD", "pooling.projection.0.weight"} < one.keys()
    for cached, _ in run_workers(without_dropout, 2, tmp_path / "workers", tmp_path / "pooled", batches):
        for gradients, _ in cached:
            assert_equal(gradients, one)


def test_dropout_is_the_same_in_both_passes(tmp_path: Path, dropout_model: Path) -> None:
    batches = write_plan(dropout_model, tmp_path, pair_table(20), batch_size=BATCH_SIZE)
    results = run_workers(with_dropout, 2, tmp_path / "workers", dropout_model, batches)
    micro_batches = max(own for _, _, (_, own) in results)
    assert min(own for _, _, (_, own) in results) < micro_batches  # so that a worker idles
    for cached, checkpointed, (uncached, _) in results:
        for gradients, _ in cached + checkpointed:
            assert_equal(gradients, uncached)
        # what is encoded twice: nothing, some of it, all of it
        for all_kept, some_kept, none_kept in (cached[:3], cached[3:]):
            assert all_kept[1] == micro_batches < some_kept[1] < none_kept[1] == 2 * micro_batches
