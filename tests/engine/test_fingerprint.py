import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.engine.fingerprint import canonical_json, fingerprints
from workflows.engine.step import Budget, Step, closure
from workflows.engine.store import Store

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def _shuffled(value: object) -> object:
    """The same value with every dict in reverse order and every list as a tuple."""
    if isinstance(value, dict):
        return {key: _shuffled(item) for key, item in reversed(value.items())}
    if isinstance(value, list):
        return tuple(_shuffled(item) for item in value)
    return value


@given(values)
def test_canonical_json_is_json_and_ignores_order_and_tuples(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(_shuffled(value)) == text


@given(values, values)
def test_canonical_json_tells_values_apart(left: object, right: object) -> None:
    # repr distinguishes what == does not: 1, 1.0 and True
    same = repr(json.loads(json.dumps(left, sort_keys=True))) == repr(
        json.loads(json.dumps(right, sort_keys=True))
    )
    assert (canonical_json(left) == canonical_json(right)) == same


class Special(float):
    pass


@pytest.mark.parametrize(
    ("value", "error", "path"),
    [
        ({"a": {"b": float("nan")}}, ValueError, "config.a.b"),
        ({"a": [1, float("inf")]}, ValueError, r"config.a\[1\]"),
        ({"a": {"f": print}}, TypeError, "config.a.f"),
        ({"a": {1, 2}}, TypeError, "config.a"),
        ({"a": Special(1.0)}, TypeError, "config.a is a Special"),
        ({"a": {1: 2}}, TypeError, "config.a has the key 1"),
        ({"a": b"bytes"}, TypeError, "config.a"),
    ],
)
def test_what_has_no_stable_text_is_refused_by_path(value: object, error: type, path: str) -> None:
    with pytest.raises(error, match=path):
        canonical_json(value)


def _dag(text: str = "a", **changes: object) -> Step:
    first = Step("first", "engine_functions:write", 1, {"text": text, "nested": {"b": 2.5, "a": [1, 2]}})
    settings: dict = {"config": {"k": 1}, "inputs": {"part": first / "part"}, "external": {"x.jsonl": "00ff"}}
    return Step(**{"name": "second", "fn": "engine_functions:read_part", **settings, **changes})


def test_same_in_another_process_with_another_hash_seed() -> None:
    here = next(reversed(fingerprints([_dag()]).values()))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_fingerprint import _dag;"
        "from workflows.engine.fingerprint import fingerprints;"
        "print(list(fingerprints([_dag()]).values())[-1])"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, os.path.dirname(__file__)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here


def test_what_enters_the_fingerprint() -> None:
    def of(step: Step) -> str:
        return fingerprints([step])[step]

    base = of(_dag())
    first = _dag().inputs["part"].step
    for other in (
        _dag(text="b"),
        _dag(version=2),
        _dag(config={"k": 1.0}),
        _dag(external={"x.jsonl": "00fe"}),
        _dag(fn="engine_functions:join"),
        _dag(inputs={"part": first}),
        _dag(inputs={"part": first / "other"}),
        _dag(inputs={"part2": first / "part"}),
    ):
        assert of(other) != base
    for same in (
        _dag(name="third"),
        _dag(execution={"num_workers": 8}),
        _dag(budget=Budget(cpus=8, gpus=2), deadline_s=3.0, retries=9),
        _dag(explain="m:f", confirm="m:g"),
    ):
        assert of(same) == base
    assert Store("/a").folder(_dag(), base).path("x")[2:] == Store("/b").folder(_dag(), base).path("x")[2:]


def test_closure_orders_a_long_chain_and_refuses_two_steps_of_one_name() -> None:
    step = Step("s0", "m:f")
    for i in range(1, 3000):
        step = Step(f"s{i}", "m:f", inputs={"a": step})
    assert [each.name for each in closure([step])] == [f"s{i}" for i in range(3000)]
    with pytest.raises(ValueError, match="two steps are called `s1`"):
        closure([step, Step("s1", "m:g")])


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Two Words"},
        {"fn": "no_colon"},
        {"config": {"part": 1}},
        {"execution": {"k": 1}},
        {"config": {"output": 1}},
    ],
)
def test_a_step_that_cannot_be_called_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"step|given twice"):
        _dag(**wrong)


@pytest.mark.parametrize("path", ["", "/abs", "a/../b", "a//b"])
def test_a_sub_path_stays_inside(path: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        Step("s", "m:f") / path
