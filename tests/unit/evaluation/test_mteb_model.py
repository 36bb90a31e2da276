"""Our model object in `mteb.evaluate`, against our own step on the same rows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_model import write_tiny_model
from tiny_rerankers import write_yes_no_model

from components.evaluation.kinds import evaluate_similarity
from components.evaluation.mteb_model import MtebModel, MtebReranker
from components.model.embedder import Embedder
from components.model.reranker import load_reranker
from components.monitor import Silent
from components.storage import Folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("mteb") / "model")


def test_texts_take_the_side_that_mteb_asks_for(directory):
    model, embedder = MtebModel(directory), Embedder.load(directory)
    batches = [{"text": ["w1 w2", "w3"]}, {"text": ["w4 " * 40]}]
    texts = [text for batch in batches for text in batch["text"]]
    asked = {"task_metadata": SimpleNamespace(name="T"), "hf_split": "test", "hf_subset": "default"}
    for prompt_type, side in ((None, "query"), ("query", "query"), ("document", "document")):
        kind = prompt_type and SimpleNamespace(value=prompt_type)
        found = model.encode(batches, **asked, prompt_type=kind)
        np.testing.assert_allclose(found, embedder.encode(texts, side), atol=1e-6)  # type: ignore[arg-type]
    a, b = found[:2], found[1:]
    cosines = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(model.similarity(a, 3 * b).numpy(), cosines, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(a, b).numpy(), np.diag(cosines), atol=1e-6)


def test_a_reranker_is_a_cross_encoder_to_mteb(tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install mteb)")
    directory = write_yes_no_model(tmp_path / "model")
    model, reranker = MtebReranker(directory, instructions={"Other": "Find"}), load_reranker(directory)
    assert isinstance(model, mteb.models.CrossEncoderProtocol)
    assert not isinstance(model, mteb.models.EncoderProtocol)
    assert model.mteb_model_meta.is_cross_encoder
    queries, documents = [{"text": ["a", "a"]}, {"text": ["b"]}], [{"text": ["c"]}, {"text": ["d", "e"]}]
    for name, instruction in (("Some", None), ("Other", "Find")):
        found = model.predict(
            queries, documents, task_metadata=SimpleNamespace(name=name), hf_split="test", hf_subset="default"
        )
        expected = reranker.score(["a", "a", "b"], ["c", "d", "e"], [instruction] * 3)
        np.testing.assert_array_equal(found, expected)


def test_mteb_evaluates_it_to_our_own_figure(directory, tmp_path):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (pip install mteb)")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    rng = np.random.default_rng(0)
    shared = rng.integers(0, 9, 60)

    def text(common: list[str]) -> str:
        return " ".join([*common, *(f"w{number}" for number in rng.integers(0, 200, 10 - len(common)))])

    rows = []
    for count in shared:
        common = [f"w{number}" for number in rng.integers(0, 200, count)]
        rows.append({"sentence1": text(common), "sentence2": text(common), "score": float(count)})

    class Words(AbsTaskSTS):
        metadata = TaskMetadata(
            name="Words", description="random words", reference=None, type="STS", category="t2t",
            modalities=["text"], eval_splits=["test"], eval_langs=["eng-Latn"], main_score="cosine_spearman",
            dataset={"path": "none/none", "revision": "1"}, date=None, domains=None, task_subtypes=None,
            license=None, annotations_creators=None, dialect=None, sample_creation=None, bibtex_citation=None,
        )  # fmt: skip
        min_score, max_score = 0, 10

        def load_data(self, *arguments, **options) -> None:
            self.dataset = DatasetDict({"test": Dataset.from_list(rows)})
            self.data_loaded = True

    found = mteb.evaluate(
        MtebModel(directory), Words(), cache=None, co2_tracker=False, show_progress_bar=False
    ).task_results[0]
    data = tmp_path / "data"
    data.mkdir()
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = evaluate_similarity(
        data=str(data),
        model=Folder(str(directory)),
        output=Folder(str(tmp_path / "out")),
        monitor=Silent(),
    )
    assert found.scores["test"][0]["cosine_spearman"] == pytest.approx(ours["spearman"], abs=1e-6)
