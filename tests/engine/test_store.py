from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.storage import Folder
from workflows.engine.fingerprint import fingerprints, payload
from workflows.engine.lease import Contender, Lease
from workflows.engine.step import Step
from workflows.engine.store import DamagedResultError, Manifest, Store, input_of


def _attempt(store: Store, step: Step, name: str, text: bytes = b"text") -> tuple[Manifest, Lease]:
    """An attempt that is ready to be committed, with a lease of its own folder so that several can race."""
    prints = fingerprints([step])
    folder = store.folder(step, prints[step])
    (folder / name).write("model/a.txt", text)
    lease = Contender(folder / "race" / name, 60.0).acquire()
    assert lease is not None
    outputs = {"model/a.txt": {"size": len(text), "sha256": ""}}
    return Manifest(
        step.name, prints[step], payload(step, prints), name, outputs, {"rows": 1.0}, 1.0, 2.0
    ), lease


@pytest.fixture
def step() -> Step:
    return Step("write", "engine_functions:write", config={"text": "a"})


def test_of_racing_writers_one_manifest_stands(tmp_path: Path, step: Step) -> None:
    for turn in range(10):
        store = Store(tmp_path / str(turn))
        attempts = [_attempt(store, step, f"attempt-{i}", b"x" * (i + 1)) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(store.commit, [step] * 8, *zip(*attempts, strict=True)))
        assert sum(won) == 1
        winner = attempts[won.index(True)][0]
        assert store.find(step, winner.fingerprint) == winner  # validated: its files are there, whole
        assert store.folder(step, winner.fingerprint).names("attempt-*") == [winner.attempt]


def test_a_late_writer_cannot_overwrite(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path)
    first, second = (
        _attempt(store, step, "attempt-1", b"first"),
        _attempt(store, step, "attempt-2", b"second"),
    )
    assert store.commit(step, *first)
    folder = store.folder(step, second[0].fingerprint)
    (folder / "attempt-2").write("model/a.txt", b"second")  # it writes on after the commit swept it away
    assert not store.commit(step, *second)
    assert store.find(step, first[0].fingerprint) == first[0]
    assert store.folder(step, first[0].fingerprint).names("attempt-*") == ["attempt-1"]


def test_a_commit_removes_state_and_leases(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path)
    manifest, _ = _attempt(store, step, "attempt-1")
    folder = store.folder(step, manifest.fingerprint)
    lease = Contender(folder, 60.0).acquire()
    assert lease is not None
    (folder / "state").write("checkpoint", b"x")
    assert store.commit(step, manifest, lease)
    lease.beat()  # of a thread that was about to: must leave nothing behind
    assert folder.names() == ["attempt-1", "manifest.json", "race"]


def test_nothing_counts_before_the_manifest(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path)
    manifest, _ = _attempt(store, step, "attempt-1")
    assert store.find(step, manifest.fingerprint) is None


def test_damage_is_named(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path)
    manifest, lease = _attempt(store, step, "attempt-1", b"whole")
    assert store.commit(step, manifest, lease)
    output = store.output(step, manifest)
    output.write("model/a.txt", b"who")
    with pytest.raises(DamagedResultError, match=r"model/a.txt has 3 bytes, the manifest says 5"):
        store.find(step, manifest.fingerprint)
    output.delete("model/a.txt")
    with pytest.raises(DamagedResultError, match=r"model/a.txt is missing"):
        store.find(step, manifest.fingerprint)
    store.folder(step, manifest.fingerprint).write("manifest.json", b"{")
    with pytest.raises(DamagedResultError, match="cannot be read"):
        store.find(step, manifest.fingerprint)


def test_a_root_without_write_access_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"storage root .*/file/store cannot be written"):
        Store(tmp_path / "file" / "store").check_writable()


def test_what_a_result_read_is_found_by_its_keyword(tmp_path: Path, step: Step) -> None:
    store = Store(tmp_path)
    reader = Step("read", "engine_functions:read_part", inputs={"part": step / "model"})
    for each in (step, reader):
        manifest, lease = _attempt(store, each, f"attempt-{each.name}")
        assert store.commit(each, manifest, lease)
    output = store.output(reader, manifest)
    found = input_of(output, "part")
    assert found is not None
    assert found.read("model/a.txt") == b"text"
    assert found.uri.endswith("attempt-write")
    assert input_of(output, "split") is None
    assert input_of(Folder(str(tmp_path / "elsewhere")), "part") is None
