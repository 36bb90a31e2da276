"""Vectors that are looked up are those that would be computed, and nothing is computed twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import write_tiny_model

from components.evaluation.cache import CachedEncoder, load_encoder
from components.model.embedder import Embedder
from components.monitor import Silent
from components.storage import Folder

TEXTS = ["w1 w2", "w3", "", "w1 w2", "w4 w5 w6"]


class Counting(Embedder):
    """An embedder that counts the texts it encodes."""

    encoded = 0

    def encode(self, texts, *arguments, **options):
        self.encoded += len(texts)
        return super().encode(texts, *arguments, **options)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("cache") / "model")


def counting(directory: Path, folder: Folder, digest: str = "a", **spec) -> tuple[Counting, CachedEncoder]:
    embedder = Counting.load(directory)
    embedder.spec = replace(embedder.spec, **spec)
    return embedder, CachedEncoder(embedder, digest, folder)


def test_a_text_is_encoded_once(directory, tmp_path):
    folder = Folder(str(tmp_path))
    embedder, cached = counting(directory, folder)
    expected = Embedder.load(directory).encode(TEXTS, "document")
    np.testing.assert_allclose(cached.encode(TEXTS, "document"), expected, atol=1e-6)
    assert embedder.encoded == 4  # one stands twice
    first = cached.encode(TEXTS[::-1], "document")
    np.testing.assert_allclose(first, expected[::-1], atol=1e-6)
    assert embedder.encoded == 4
    cached.encode([*TEXTS, "w9"], "document")
    assert embedder.encoded == 5
    again, later = counting(directory, folder)
    np.testing.assert_array_equal(later.encode(TEXTS, "document"), first[::-1])
    assert again.encoded == 0


@pytest.mark.parametrize(
    ("digest", "spec", "side"),
    [
        ("b", {}, "document"),
        ("a", {"pooling": "cls"}, "document"),
        ("a", {"document_template": "w7 {text}"}, "document"),
        ("a", {"document_template": "{text} w7"}, "document"),
        ("a", {"dimensions": 16}, "document"),
        ("a", {"document_length": 4}, "document"),
        ("a", {}, "query"),
    ],
)
def test_whatever_changes_a_vector_is_looked_up_apart(directory, tmp_path, digest, spec, side):
    folder = Folder(str(tmp_path))
    counting(directory, folder)[1].encode(TEXTS, "document")
    embedder, cached = counting(directory, folder, digest, **spec)
    cached.encode(TEXTS, side)
    assert embedder.encoded == 4


def test_two_instructions_are_two_texts_and_one_template_is_one(directory, tmp_path):
    embedder, cached = counting(directory, Folder(str(tmp_path)), query_template="w1 {instruction} w2 {text}")
    one, other = (cached.encode(["w5"], "query", instruction) for instruction in ("w3", "w4"))
    assert not np.allclose(one, other)
    assert embedder.encoded == 2
    cached.encode(["w5"], "query", "w3")
    assert embedder.encoded == 2


def test_a_crash_between_texts_costs_no_more_than_a_file(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("components.evaluation.cache.TEXTS_PER_FILE", 2)
    folder = Folder(str(tmp_path))
    embedder, cached = counting(directory, folder)
    whole = cached.encode(TEXTS, "document")
    (space,) = tmp_path.iterdir()
    # vectors that were written, and no keys to them: as if killed between the two
    sorted(space.glob("*.keys.npy"))[0].unlink()
    np.testing.assert_allclose(cached.encode(TEXTS, "document"), whole, atol=1e-6)
    assert embedder.encoded == 6


def test_progress_is_that_of_all_texts(directory, tmp_path, monkeypatch):
    monkeypatch.setattr("components.evaluation.cache.TEXTS_PER_FILE", 2)
    seen: list[tuple[float, float | None]] = []

    class Watching(Silent):
        def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
            seen.append((done, total))

    _, cached = counting(directory, Folder(str(tmp_path)))
    texts = [f"w{number}" for number in range(5)]
    cached.encode(texts, "document", tokens_per_batch=4, monitor=Watching())
    assert seen[0] == (0, 5)
    assert {done for done, _ in seen} == {0, 1, 2, 3, 4, 5}
    assert {total for _, total in seen} == {5}
    cached.encode([*texts, "w9"], "document", monitor=Watching())
    assert seen[-2:] == [(5, 6), (6, 6)]


def test_the_digest_is_that_of_the_weights(directory, tmp_path):
    encoder = load_encoder(Folder(str(directory)), Folder(str(tmp_path)))
    assert isinstance(encoder, CachedEncoder)
    assert encoder._digest == json.loads((directory / "encoding.json").read_text())["weights_digest"]
    assert isinstance(load_encoder(Folder(str(directory)), None), Embedder)
