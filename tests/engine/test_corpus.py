"""The steps on documents with workers: same rows, same order, whatever their number."""

import random

import pyarrow as pa
import pytest
import ray
from corpus_tables import write_corpus
from tiny_model import write_tiny_model

from components.corpus import tables, workers
from components.corpus.chunks import chunk_documents
from components.corpus.contamination import remove_contaminated_documents
from components.corpus.duplicates import group_duplicates, remove_duplicates
from components.corpus.language import identify_languages
from components.corpus.schema import DOCUMENTS
from components.monitor import Silent
from components.storage import Folder
from workflows.engine.task import failure

WORDS = [f"w{n}" for n in range(200)]
DOCUMENTS_COUNT = 4000


def texts():
    rng = random.Random(0)
    found = []
    for number in range(DOCUMENTS_COUNT):
        if number % 10 == 9:  # a near-copy of one that stands far away, in another shard
            body = found[rng.randrange(number)].split()
            body[rng.randrange(len(body))] = "w0"
        else:
            body = rng.choices(WORDS, k=rng.randrange(40, 120))
        found.append(" ".join(body))
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Folder:
    """Four shards, with a query for each hundredth document."""
    folder = Folder(str(tmp_path_factory.mktemp("corpus")))
    rows = [
        {"document_id": f"d{number:05}", "text": text, "language": "", "source": "test"}
        for number, text in enumerate(texts())
    ]
    judged = range(0, DOCUMENTS_COUNT, 100)
    queries, qrels = [(f"q{n}", f"query {n}") for n in judged], [(f"q{n}", f"d{n:05}", "all") for n in judged]
    write_corpus(folder, {}, queries, qrels)
    folder.delete("documents.parquet")
    for shard in range(4):
        table = pa.Table.from_pylist(rows[shard * 1000 : shard * 1000 + 1000], schema=DOCUMENTS)
        folder.write_table(f"documents.parquet/{shard:05d}.parquet", table)
    return folder


def run(step, **arguments):
    """As the workflow runs it: in a task that holds no CPU."""

    def task():
        numbers = step(monitor=Silent(), **arguments)
        assert ray.data.DataContext.get_current().enable_progress_bars
        return {key: value for key, value in numbers.items() if key != "rows_per_second"}

    return ray.get(ray.remote(num_cpus=0, max_retries=0)(task).remote())


def in_this_process(step, monkeypatch, **arguments):
    with monkeypatch.context() as patch:
        patch.setattr(workers, "FEW_ROWS", DOCUMENTS_COUNT)
        numbers = step(monitor=Silent(), **arguments)
    return {key: value for key, value in numbers.items() if key != "rows_per_second"}


def contents(folder: Folder) -> dict[str, pa.Table]:
    names = {name.split(".parquet")[0] + ".parquet" for name in folder.files()}
    return {name: pa.concat_tables(tables.read_batches(folder, name)) for name in names}


def chunking(tmp_path):
    write_tiny_model(tmp_path / "model")
    return chunk_documents, {"model": Folder(str(tmp_path / "model")), "max_tokens": 48, "overlap_tokens": 8}


def grouping(tmp_path):
    return group_duplicates, {"threshold": 0.8, "num_permutations": 64, "ngram": 3, "seed": 0}


def decontamination(tmp_path):
    split = Folder(str(tmp_path / "split"))
    found = texts()
    documents = {f"e{n}": (None, found[n]) for n in range(0, DOCUMENTS_COUNT, 60)}
    write_corpus(
        split / "evaluation",
        documents,
        queries=[("q", "query 300"), ("q2", "nothing like it")],
        qrels=[("q", document_id, "all") for document_id in documents],
    )
    settings = {"split": split, "ngram": 13, "share": 0.3, "parts": ["queries", "relevant"]}
    return remove_contaminated_documents, settings


def languages(tmp_path):
    return identify_languages, {
        "keep": ["en", "de"], "candidates": ["en", "de", "fr"], "stated": "replace", "undetermined": "reject",
        "min_letters": 41, "confidence": 0.0, "accuracy": "low", "sample_characters": 200,
    }  # fmt: skip


@pytest.mark.parametrize("step", [grouping, decontamination, languages, chunking])
def test_workers_change_nothing(ray_cluster, corpus, tmp_path, monkeypatch, step):
    function, settings = step(tmp_path)
    alone = Folder(str(tmp_path / "alone"))
    numbers = in_this_process(function, monkeypatch, documents=corpus, output=alone, **settings)
    assert 0 < numbers.get("rows_out", numbers.get("groups", 0)) != DOCUMENTS_COUNT
    for num_workers in (1, 2):
        output = Folder(str(tmp_path / f"by-{num_workers}"))
        again = run(function, documents=corpus, output=output, num_workers=num_workers, **settings)
        assert again == numbers
        assert contents(output).keys() == contents(alone).keys()
        for name, table in contents(alone).items():
            assert contents(output)[name].equals(table), name


def test_duplicates_are_removed_by_workers(ray_cluster, corpus, tmp_path):
    _, settings = grouping(tmp_path)
    groups, output = Folder(str(tmp_path / "groups")), Folder(str(tmp_path / "kept"))
    found = run(group_duplicates, documents=corpus, output=groups, num_workers=2, **settings)
    numbers = run(remove_duplicates, documents=corpus, duplicates=groups, output=output, num_workers=2)
    assert numbers["rows_out"] == found["groups"]
    assert numbers["rejected_duplicate"] == found["duplicates"] > 0.08 * DOCUMENTS_COUNT
    kept = contents(output)["documents.parquet"]["document_id"].to_pylist()
    assert kept == sorted(kept)
    judged = contents(output)["qrels.parquet"]["document_id"].to_pylist()
    assert len(judged) == DOCUMENTS_COUNT // 100
    assert set(judged) <= set(kept)


def test_more_workers_than_the_cluster_has_cpus(ray_cluster, corpus, tmp_path):
    _, settings = grouping(tmp_path)
    run(group_duplicates, documents=corpus, output=Folder(str(tmp_path / "g")), num_workers=16, **settings)


def test_what_a_worker_finds_wrong_is_said_in_its_own_words(ray_cluster, corpus, tmp_path):
    broken = Folder(str(tmp_path / "broken"))
    for shard in range(2):
        rows = corpus.read_table(f"documents.parquet/{shard:05d}.parquet")
        broken.write_table(f"documents.parquet/{shard:05d}.parquet", rows if shard else rows.drop(["source"]))
    _, settings = languages(tmp_path)

    def task():
        try:
            identify_languages(
                documents=broken,
                output=Folder(str(tmp_path / "output")),
                monitor=Silent(),
                num_workers=2,
                **settings,
            )
        except Exception as error:
            return failure(error)

    # Of a dataset that failed Ray Data leaves actors behind, which go with the process that owns them.
    found = ray.get(ray.remote(num_cpus=0, max_retries=0, max_calls=1)(task).remote())
    assert found.kind == "user", found.traceback
    assert found.message.startswith("column `source` is missing")
