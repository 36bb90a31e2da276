"""A writer behind an endpoint that breaks in every way: each good row arrives once, each bad row with its reason."""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray
from fake_endpoint import RETRY_AFTER, Running

from components.corpus.schema import DOCUMENTS, PAIRS, conform
from components.monitor import Silent
from components.storage import Folder
from components.synthesis import generate
from components.synthesis.answers import ANSWERS, REQUESTS, answer, read_finished
from components.synthesis.answers import ROWS as ROWS_FOLDER
from components.synthesis.generate import synthesise_at_endpoint
from components.synthesis.ledger import read_book
from components.synthesis.prompts import personas_version, prompt_version

ROWS = 200
FAMILIES = ("retrieval", "bitext_mining", "sts", "classification")
KEY = "EMBEDLOOM_TEST_KEY"
SECRET = os.environ[KEY]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Running]:
    running = Running()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(str(tmp_path_factory.mktemp("split")))
    rows = [
        {
            "document_id": f"{number:04d}",
            "title": f"lamp row{number:04d}",
            "text": f"The old lamp row{number:04d} is cleaned by a mechanic in the early morning.",
            "language": "en",
            "source": "test",
        }
        for number in range(ROWS)
    ]
    folder.write_table("synthesis/documents.parquet", conform(pa.Table.from_pylist(rows), DOCUMENTS))
    return folder


@dataclass(frozen=True)
class Asked:
    """One synthesis, and what it left."""

    arguments: dict[str, Any]

    @property
    def output(self) -> Folder:
        return self.arguments["output"]

    @property
    def state(self) -> Folder:
        return self.arguments["state"]

    def start(self) -> ray.ObjectRef:
        """As the workflow runs it: in a task that holds no CPU. Afterwards Ray Data must be as it was."""
        arguments = self.arguments

        def task() -> dict[str, float]:
            before = ray.data.DataContext.get_current()
            numbers = synthesise_at_endpoint(**arguments)
            assert ray.data.DataContext.get_current() is before
            return numbers

        return ray.remote(num_cpus=0, max_retries=0)(task).remote()

    def run(self) -> dict[str, float]:
        return ray.get(self.start(), timeout=240)  # whatever an endpoint does, nothing hangs

    def pairs(self) -> list[dict[str, Any]]:
        return conform(self.output.read_table("pairs.parquet"), PAIRS).to_pylist()

    def rejected(self) -> dict[str, str]:
        rows = self.output.read_table("rejected/rejected.parquet").to_pylist()
        return {row["document_id"]: row["reason"] for row in rows}


def prepare(endpoint: Running, split: Folder, folder: Path) -> Asked:
    return Asked(
        {
            "split": split,
            "llm": "fake-writer",
            "draws": {
                "families": dict.fromkeys(FAMILIES, 1.0),
                "translation_languages": {"en": 3.0, "de": 1.0},
                "question_types": {"keywords": 1.0, "summary": 1.0},
                "length_words": {"4-8": 1.0, "9-14": 1.0},
            },
            "instructions": {"retrieval": "Find the lamp"},
            "prompt_version": prompt_version(),
            "persona_version": personas_version(),
            "passage_characters": 400,
            "temperature": 0.7,
            "top_p": 1.0,
            "frequency_penalty": 0.0,
            "max_tokens": 64,
            "response_format": "json_schema",
            "seed_rows": True,
            "seed": 0,
            "base_url": endpoint.base_url,
            "output": Folder(str(folder / "output")),
            "monitor": Silent(),
            "state": Folder(str(folder / "state")),
            "key_variable": KEY,
            "concurrency": 32,
            "timeout_seconds": 2.0,
            "retries": 2,
        }
    )


@pytest.fixture
def asked(endpoint: Running, split: Folder, tmp_path: Path, ray_cluster: None) -> Asked:
    return prepare(endpoint, split, tmp_path)


TWO_BAD = {"row0003": "refused_400", "row0005": "broken_json"}


@pytest.fixture(scope="module")
def undisturbed(
    endpoint: Running, split: Folder, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[Asked, dict[str, float]]:
    asked = prepare(endpoint, split, tmp_path_factory.mktemp("undisturbed"))
    endpoint.behave(TWO_BAD)
    return asked, asked.run()


FOR_EVER = {
    "broken_json": {"answer_unreadable", "configuration_unreadable"},
    "no_json": {"server_error"},
    "error_500": {"server_error"},
    "limit_429": {"rate_limited"},
    "hang": {"timeout"},
    "refused_400": {"request_refused"},
}
ONCE = ("error_500_once", "limit_429_once", "hang_once", "no_json_once")


def test_a_tenth_of_the_rows_breaks_and_each_costs_one_row(asked: Asked, endpoint: Running):
    kinds = [*FOR_EVER, *ONCE]
    faults = {f"row{10 * number:04d}": kinds[number % len(kinds)] for number in range(ROWS // 10)}
    endpoint.behave(faults)
    numbers = asked.run()

    bad = {row[3:]: fault for row, fault in faults.items() if fault in FOR_EVER}
    rejected, pairs = asked.rejected(), asked.pairs()
    assert {
        document_id: reason in FOR_EVER[bad[document_id]] for document_id, reason in rejected.items()
    } == (dict.fromkeys(bad, True))
    # Every good row arrives once: its own number is in what was written for it.
    assert len(pairs) == ROWS - len(bad)
    written = Counter(pair["query"] + pair["positive"] for pair in pairs)
    for number in set(range(ROWS)) - {int(document_id) for document_id in bad}:
        assert sum(f"row{number:04d}" in text for text in written) == 1

    assert numbers["rows_in"] == ROWS
    assert numbers["rows_out"] == len(pairs)
    reasons = {name[9:]: count for name, count in numbers.items() if name.startswith("rejected_")}
    assert reasons == Counter(rejected.values())
    # A good row costs one request a call, and no more.
    families = {pair["seed"]: pair["task"] for pair in pairs}
    requests = endpoint.asked()
    seeds = {request["row"]: request["body"]["seed"] for request in requests}
    for row, times in Counter(request["row"] for request in requests).items():
        if row not in faults:
            assert times == (2 if families[seeds[row]] == "retrieval" else 1)
    assert requests[-1]["at"] - requests[0]["at"] < 60
    assert {request["key"] for request in requests} == {f"Bearer {SECRET}"}
    # Who is told to wait does.
    for row, fault in faults.items():
        if fault == "limit_429_once":
            first, second = [request["at"] for request in requests if request["row"] == row][:2]
            assert second - first >= RETRY_AFTER
    assert numbers["output_tokens"] > 10 * (ROWS - len(bad))


def test_the_four_families_become_pairs_of_their_kind(
    undisturbed: tuple[Asked, dict[str, float]], split: Folder
):
    asked, numbers = undisturbed
    pairs = asked.pairs()
    assert numbers["rows_out"] == len(pairs) == ROWS - len(TWO_BAD)
    by_family = {family: [pair for pair in pairs if pair["task"] == family] for family in FAMILIES}
    assert {f"pairs_{family}": len(rows) for family, rows in by_family.items()} == {
        name: count for name, count in numbers.items() if name.startswith("pairs_")
    }
    documents = {
        row["document_id"]: row for row in split.read_table("synthesis/documents.parquet").to_pylist()
    }
    for family, rows in by_family.items():
        # Four families, each as likely: at 200 rows a count below 25 has a chance of one in a hundred thousand.
        assert len(rows) >= 25
        for pair in rows:
            assert pair["llm"] == "fake-writer"
            assert pair["origin"] == "synthetic"
            assert pair["prompt_version"] == prompt_version()
            assert len(pair["negatives"] or []) == len(pair["negative_ids"] or [])
            assert (pair["persona"] is not None) == (family == "retrieval")
    for pair in by_family["retrieval"]:
        document = documents[pair["positive_id"]]
        assert pair["positive"] == f"{document['title']} {document['text']}"
        assert pair["instruction"] == "Find the lamp"
        assert pair["question_type"] in {"keywords", "summary"}
        assert pair["negatives"] is None
    for pair in by_family["bitext_mining"]:
        assert pair["query"].endswith("in the early morning.")
        assert pair["positive"].startswith("Die alte Lampe")
    for pair in by_family["sts"]:
        assert len(pair["negatives"]) == 1
        assert pair["question_type"] in {"5>3", "5>2", "5>1", "4>2", "4>1"}
    for pair in by_family["classification"]:
        assert pair["negatives"] == ["cooking", "sailing boats", "tax law"]
        assert pair["query"].startswith("lamp row")
    assert len({pair["instruction"] for pair in pairs}) >= 4
    # The key went to the endpoint (see above) and nowhere else.
    for folder in (asked.output, asked.state):
        assert not any(SECRET.encode() in folder.read(name) for name in folder.files())


def test_above_the_cap_the_step_fails_says_so_and_asks_the_failed_rows_again(asked: Asked, endpoint: Running):
    # Behind good ones that take more than the second after which answers are written.
    endpoint.behave({f"row{number:04d}": "error_500" for number in range(120, ROWS)}, seconds=0.4)
    with pytest.raises(
        ValueError, match=r"failed for \d+ of 200 rows \(server_error \d+\).*max_error_share = 0.05.*fire"
    ):
        Asked(asked.arguments | {"max_error_share": 0.05, "retries": 0}).run()
    answered = asked.state.read_table(ROWS_FOLDER).to_pylist()
    good = {row["document_id"] for row in answered if not row["error"]}
    assert 0 < len(good) < ROWS
    endpoint.behave({})
    Asked(asked.arguments | {"max_error_share": 0.05}).run()
    assert len(asked.pairs()) == ROWS
    again = {row[3:] for row in endpoint.times()}
    assert not again & good
    assert {row["document_id"] for row in answered if row["error"]} <= again


def test_an_error_is_heard_when_the_ledger_died_of_it_too(asked: Asked, monkeypatch: pytest.MonkeyPatch):
    def lose_the_node(requests: ray.data.Dataset, *, ledger: ray.actor.ActorHandle, **_: Any) -> None:
        ray.kill(ledger)
        with contextlib.suppress(ray.exceptions.RayActorError):
            while True:
                read_book(ledger)
        raise OSError("no space left on device")

    monkeypatch.setattr(generate, "ask_endpoint", lose_the_node)
    with pytest.raises(OSError, match="no space left"):
        synthesise_at_endpoint(**asked.arguments)


def write_documents(folder: Path, rows: list[dict[str, Any]]) -> Folder:
    split = Folder(str(folder / "other-split"))
    blank = {
        "title": None,
        "text": "The old lamp row0001 is cleaned by hand.",
        "language": "en",
        "source": "test",
    }
    split.write_table(
        "synthesis/documents.parquet",
        conform(pa.Table.from_pylist([blank | row for row in rows], schema=DOCUMENTS), DOCUMENTS),
    )
    return split


def test_one_document_its_copies_and_one_of_no_language(asked: Asked, endpoint: Running, tmp_path: Path):
    endpoint.behave({})
    rows = [{"document_id": name} for name in ("alone", "copy", "second copy")]
    rows.append({"document_id": "speechless", "language": ""})
    asked = Asked(
        asked.arguments | {"split": write_documents(tmp_path, rows), "draws": {"families": {"retrieval": 1}}}
    )
    numbers = asked.run()
    assert [pair["positive_id"] for pair in asked.pairs()] == ["alone"]
    assert asked.rejected() == {
        "copy": "duplicate", "second copy": "duplicate", "speechless": "language_without_name",
    }  # fmt: skip
    assert (numbers["rows_in"], numbers["rows_out"]) == (4, 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "holds no document to write queries for"),
        (("a", "b", "a"), "holds 1 document ids more than once"),
    ],
)
def test_documents_that_cannot_be_asked_about(
    asked: Asked, endpoint: Running, tmp_path: Path, names: tuple[str, ...], message: str
):
    endpoint.behave({})
    split = write_documents(tmp_path, [{"document_id": name} for name in names])
    with pytest.raises(ValueError, match=message):
        synthesise_at_endpoint(**(asked.arguments | {"split": split}))
    assert endpoint.asked() == []


def test_a_key_that_is_refused_ends_the_step_at_once(asked: Asked, endpoint: Running):
    endpoint.behave({f"row{number:04d}": "denied_401" for number in range(ROWS)})
    with pytest.raises(ValueError, match=f"refuses the key in {KEY}") as raised:
        asked.run()
    assert SECRET not in str(raised.value)
    assert max(endpoint.times().values()) == 1
    asked_till_the_end = len(endpoint.asked())
    time.sleep(2)
    assert len(endpoint.asked()) == asked_till_the_end


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_variable": "EMBEDLOOM_NO_SUCH_KEY"}, "EMBEDLOOM_NO_SUCH_KEY.*is not set"),
        ({"draws": {"families": {"poetry": 1.0}}}, r"draws\.families\.poetry"),
        ({"draws": {"length_words": {"9-4": 1.0}}}, "least first"),
        ({"draws": {"question_types": {"riddle": 1.0}}}, "draws.question_types names 'riddle'"),
        ({"draws": {"query_languages": {"xx": 1.0}}}, "names no language 'xx'"),
        ({"draws": {"families": {"bitext_mining": 1.0}}}, "bitext_mining needs translation_languages"),
        ({"draws": {"corpus_languages": {"en": 1.0, "zh": 1.0}}}, "gives 'zh' a share.*there are en 200"),
        ({"prompt_version": "0" * 16}, "has changed since the plan"),
        ({"prompts": "/no/such/file.yaml"}, "does not exist"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_asked(
    asked: Asked, endpoint: Running, change: dict[str, Any], message: str
):
    endpoint.behave({})
    with pytest.raises(ValueError, match=message):
        synthesise_at_endpoint(**(asked.arguments | change))
    assert endpoint.asked() == []


@pytest.mark.parametrize("language", ["", "tlh"])
def test_documents_of_no_language_that_the_prompts_name_are_refused(
    asked: Asked, endpoint: Running, tmp_path: Path, language: str
):
    endpoint.behave({})
    split = write_documents(tmp_path, [{"document_id": "a", "language": language}])
    with pytest.raises(ValueError, match=rf"there are {language or '[(]none[)]'} 1, it has .*en"):
        synthesise_at_endpoint(**(asked.arguments | {"split": split}))
    assert endpoint.asked() == []


def test_a_writing_of_which_nothing_can_be_used_fails_and_says_why(asked: Asked, tmp_path: Path):
    split = write_documents(tmp_path, [{"document_id": name} for name in "ab"])
    request = dict.fromkeys(REQUESTS.names, "") | {"family": "retrieval", "length": 5, "request_seed": 0}
    rows = [answer(request | {"document_id": name, "fault": "empty_document"}) for name in "ab"]
    asked.state.write_table(f"{ROWS_FOLDER}/earlier.parquet", pa.Table.from_pylist(rows, schema=ANSWERS))
    with pytest.raises(ValueError, match="no pair is left of 2 documents: 2 empty_document"):
        Asked(asked.arguments | {"split": split}).run()
    assert asked.rejected() == dict.fromkeys("ab", "empty_document")


def test_a_writer_that_dies_is_replaced_and_its_answers_are_not_paid_for_twice(
    asked: Asked, endpoint: Running
):
    endpoint.behave({}, seconds=0.5)
    running = Asked(asked.arguments | {"concurrency": 16}).start()
    deadline = time.monotonic() + 120
    while len(read_finished(asked.state).digests_N) < ROWS // 8:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    [writer] = [process for process in processes_of_the_step() if "RowWriter" in " ".join(process.cmdline())]
    os.kill(writer.pid, signal.SIGKILL)
    finished = read_finished(asked.state)
    paid = endpoint.times()
    ray.get(running, timeout=240)
    later = endpoint.times()
    assert not {row for row in later if row[3:] in finished and later[row] > paid[row]}
    assert len(asked.pairs()) == ROWS


def processes_of_the_step() -> list[psutil.Process]:
    """The workers of this session's cluster that run the step: its task and Ray Data's actors."""
    workers = psutil.Process().children(recursive=True)
    return [w for w in workers if " ".join(w.cmdline()).startswith(("ray::task", "ray::MapWorker"))]


def test_after_a_kill_no_finished_row_is_asked_for_again(
    asked: Asked, endpoint: Running, undisturbed: tuple[Asked, dict[str, float]]
):
    endpoint.behave(TWO_BAD, seconds=1.0)
    running = Asked(asked.arguments | {"concurrency": 8}).start()
    deadline = time.monotonic() + 120
    while len(read_finished(asked.state).digests_N) < ROWS // 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    victims = processes_of_the_step()
    assert len(victims) >= 2
    for process in victims:
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(running, timeout=60)
    finished = read_finished(asked.state)
    assert ROWS // 4 <= len(finished.digests_N) < ROWS

    answered_before = endpoint.times()
    endpoint.behave(TWO_BAD)
    asked.run()
    again = {row[3:] for row in endpoint.times()}
    assert not {row for row in again if row in finished}
    assert len(again) == ROWS - len(finished.digests_N)
    # What the crash cost: the eight rows in work and those answered, eight a second, since the last write. Writes
    # are a second apart; a busy machine may take three more.
    assert len(again & {row[3:] for row in answered_before}) <= 8 + 4 * 8
    for name in ("pairs.parquet", "rejected/rejected.parquet"):
        assert asked.output.read_table(name).equals(undisturbed[0].output.read_table(name))
    assert len(asked.pairs()) == ROWS - len(TWO_BAD)
