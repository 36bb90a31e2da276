import time
from pathlib import Path

import pytest

from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.lease import Contender
from workflows.engine.plan import plan
from workflows.engine.step import Step, closure
from workflows.engine.store import Manifest, Store


def _compute(store: Store, *steps: Step) -> None:
    """Commit a result for every step that has none."""
    prints = fingerprints(steps)
    for step in closure(steps):
        folder = store.folder(step, prints[step])
        lease = Contender(folder, 60.0).acquire()
        assert lease is not None
        (folder / "attempt-1").write("part/text.txt", str(step.config.get("text")).encode())
        outputs = {"part/text.txt": {"size": len(str(step.config.get("text"))), "sha256": ""}}
        made = Manifest(step.name, prints[step], payload(step, prints), "attempt-1", outputs, {}, 0.0, 1.0)
        if not store.commit(step, made, lease):
            lease.release()


def _dag(text: str = "a", k: object = 0.02, external: dict | None = None, version: int = 1) -> list[Step]:
    write = Step(
        "documents",
        "engine_functions:write",
        version,
        {"text": text},
        external=external or {"a.jsonl": "1"},
        explain="engine_functions:name_changes",
    )
    weak = Step(
        "weak",
        "engine_functions:train",
        config={"objective": {"temperature": k}},
        inputs={"part": write / "part"},
    )
    return [write, weak, Step("merge", "engine_functions:merge", inputs={"model": weak})]


def _told(steps: list[Step], store: Store) -> dict[str, str]:
    return {each.step.name: f"{each.state} {'; '.join(each.reasons)}".strip() for each in plan(steps, store)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_never_run_then_hit(store: Store) -> None:
    assert _told(_dag(), store)["documents"] == "RUN never run"
    _compute(store, *_dag())
    assert set(_told(_dag(), store).values()) == {"HIT"}


def test_the_field_that_changed_is_named_and_only_what_depends_on_it_reruns(store: Store) -> None:
    _compute(store, *_dag())
    assert _told(_dag(k=0.05), store) == {
        "documents": "HIT",
        "weak": "RUN objective.temperature: 0.02 -> 0.05",
        "merge": "RUN input `weak` reruns",
    }


def test_an_edited_document_is_named_and_explained(store: Store) -> None:
    _compute(store, *_dag())
    told = _told(_dag(external={"a.jsonl": "2", "b.jsonl": "1"}), store)
    assert told["documents"] == "RUN changed: a.jsonl; added: b.jsonl; was 'a'"
    assert told["weak"] == "RUN input `documents` reruns"


def test_version_and_new_and_missing_fields(store: Store) -> None:
    _compute(store, *_dag())
    assert _told(_dag(version=2), store)["documents"] == "RUN version: 1 -> 2"
    assert _told(_dag(k={"start": 1}), store)["weak"] == (
        "RUN objective.temperature: 0.02 is gone; objective.temperature.start: 1 is new"
    )
    assert _told(_dag(k=True), store)["weak"] == "RUN objective.temperature: 0.02 -> true"


def test_the_closest_of_the_last_results_is_compared(store: Store) -> None:
    _compute(store, *_dag(k=0.02))
    _compute(store, *_dag(text="another recipe", k=0.5))
    assert _told(_dag(k=0.03), store)["weak"] == "RUN objective.temperature: 0.02 -> 0.03"


def test_an_input_that_was_computed_by_another_recipe_is_another_result(store: Store) -> None:
    _compute(store, *_dag())
    _compute(store, _dag(text="b")[0])
    told = _told(_dag(text="b"), store)
    assert told["documents"] == "HIT"
    assert told["weak"] == "RUN input `documents` is another result"


def test_another_recipe_over_other_documents_says_nothing_of_this_one(store: Store) -> None:
    _compute(store, *_dag())
    told = _told(_dag(text="b", k=0.05, external={"b.jsonl": "1"}), store)
    assert set(told.values()) == {"RUN never run"}
    # Of the same documents an earlier state is compared, across a step that is new in between.
    write, weak, _ = _dag(text="b", k=0.05, external={"a.jsonl": "2"})
    cut = Step("cut", "engine_functions:train", inputs={"part": write / "part"})
    weak = Step(weak.name, weak.fn, config=weak.config, inputs={"part": cut})
    told = _told([weak], store)
    assert told["cut"] == "RUN never run"
    assert told["weak"] == "RUN objective.temperature: 0.02 -> 0.05; input `cut` reruns"
    # A state that has gone by and stands again is a hit, and what was made of another one is compared.
    _compute(store, *_dag(text="b", external={"a.jsonl": "2"}))
    told = _told(_dag(k=0.05), store)
    assert (told["documents"], told["weak"]) == ("HIT", "RUN objective.temperature: 0.02 -> 0.05")


def test_many_changes_are_counted(store: Store) -> None:
    def step(value: int) -> Step:
        return Step("card", "engine_functions:write", config={f"field{n:02d}": value for n in range(20)})

    _compute(store, step(1))
    told = _told([step(2)], store)["card"]
    assert told.startswith("RUN field00: 1 -> 2; field01: 1 -> 2;")
    assert told.endswith("; field04: 1 -> 2; and 15 more changes")


def test_damage_is_a_reason(store: Store) -> None:
    steps = _dag()
    _compute(store, *steps)
    output = store.output(steps[0], plan(steps, store)[0].manifest)
    output.delete("part/text.txt")
    told = _told(steps, store)
    assert (
        told["documents"] == "RUN its result is damaged: part/text.txt is missing, the manifest says 1 bytes"
    )
    assert told["weak"] == "HIT"  # its own result stands, and is of the same input


def test_a_hit_whose_effect_is_gone_runs(store: Store, tmp_path: Path) -> None:
    step = Step(
        "register",
        "engine_functions:register",
        execution={"registry": str(tmp_path / "registry")},
        confirm="engine_functions:is_registered",
    )
    _compute(store, step)
    assert (
        _told([step], store)["register"] == "RUN its result stands, but its effect outside the store is gone"
    )
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "entry").touch()
    assert _told([step], store)["register"] == "HIT"


def test_two_hundred_steps_in_under_two_seconds(store: Store) -> None:
    steps = [Step(f"s{i}", "engine_functions:write", config={"i": i}) for i in range(200)]
    _compute(store, *steps[:100])
    before = time.process_time()  # others may keep the machine busy
    assert [each.state for each in plan(steps, store)] == ["HIT"] * 100 + ["RUN"] * 100
    assert time.process_time() - before < 2.0
