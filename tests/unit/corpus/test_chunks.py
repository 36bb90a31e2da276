import json
import random
from itertools import pairwise

import pyarrow as pa
import pytest
from corpus_tables import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from components.corpus.chunks import Chunker, chunk_documents
from components.corpus.schema import DOCUMENTS
from components.monitor import Silent
from components.storage import Folder

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.", "Is a cache coherent?", "Grüße aus Köln!", "検索の評価。次の文。",
    "def f(x): return x", "One more sentence, somewhat longer than the others, with commas.", "\N{PARTY POPPER}",
]  # fmt: skip


def byte_level():
    """Byte-level BPE, as GPT-2 and Qwen have, with an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", tokenizer.token_to_id("<end>"))]
    )
    return tokenizer


def word_piece():
    """BERT's: lower case, accents stripped, CJK apart."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ids)
    return tokenizer


TOKENIZERS = {"byte-level BPE": byte_level(), "WordPiece": word_piece()}

SPACES = [" ", "\n", "\n\n", "  \n \n", "\u3000"]
parts = st.one_of(st.sampled_from(SENTENCES), st.sampled_from(SPACES), st.text(max_size=40))
texts = st.lists(parts, max_size=60).map("".join)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(
    text=texts,
    title=st.sampled_from([None, "A title"]),
    max_tokens=st.integers(24, 60),
    overlap=st.integers(0, 12),
)
@settings(max_examples=150)
def test_no_text_is_lost_and_no_piece_is_too_long(kind, text, title, max_tokens, overlap):
    tokenizer = TOKENIZERS[kind]
    chunks = Chunker(tokenizer.to_str(), max_tokens, overlap)(title, text)
    if len(chunks) < 2:
        assert not chunks or not text[: chunks[0].start].strip()
        assert not chunks or not text[chunks[0].end :].strip()
        return
    covered = 0
    for number, chunk in enumerate(chunks):
        piece = text[chunk.start : chunk.end]
        assert piece == piece.strip() != ""
        assert not text[covered : chunk.start].strip()  # white space alone between pieces
        assert chunk.end > covered
        if not overlap and number:
            assert chunk.start >= covered
        covered = chunk.end
        tokens = len(tokenizer.encode(f"{title} {piece}" if title else piece))
        assert tokens <= max_tokens or chunk.end - chunk.start == 1
    assert not text[covered:].strip()


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_pieces_end_with_paragraphs_and_sentences_and_are_not_small(kind):
    tokenizer = TOKENIZERS[kind]
    rng = random.Random(0)
    sentences = SENTENCES[:2] + SENTENCES[5:6]
    paragraphs = [" ".join(rng.choices(sentences, k=4)) for _ in range(60)]
    text = "\n\n".join(paragraphs)
    chunks = Chunker(tokenizer.to_str(), 100, 0)(None, text)
    pieces = [text[chunk.start : chunk.end] for chunk in chunks]
    assert all(piece[-1] in ".?!" for piece in pieces)
    ends = sum(text[chunk.end :].startswith("\n\n") for chunk in chunks[:-1])
    assert ends > 0.6 * len(chunks)
    lengths = [len(tokenizer.encode(piece)) for piece in pieces[:-1]]
    assert min(lengths) > 45
    assert sum(lengths) / len(lengths) > 60


def test_the_overlap_is_about_as_long_as_asked_for():
    tokenizer = TOKENIZERS["byte-level BPE"]
    text = " ".join(random.Random(1).choices(["alpha", "beta", "gamma", "delta"], k=2000))
    chunks = Chunker(tokenizer.to_str(), 64, 16)(None, text)
    for before, after in pairwise(chunks):
        shared = text[after.start : before.end]
        assert 8 <= len(tokenizer.encode(shared, add_special_tokens=False)) <= 16
        assert text[after.start - 1] == " "


@pytest.fixture
def model(tmp_path):
    folder = Folder(str(tmp_path / "model"))
    folder.write("tokenizer.json", TOKENIZERS["byte-level BPE"].to_str().encode())
    return folder


def chunked(tmp_path, model, documents, name="out", **settings):
    corpus = (
        documents if isinstance(documents, Folder) else write_corpus(Folder(str(tmp_path / "in")), documents)
    )
    output = Folder(str(tmp_path / name))
    given = {"max_tokens": 32, "overlap_tokens": 0} | settings
    numbers = chunk_documents(documents=corpus, model=model, output=output, monitor=Silent(), **given)
    return output.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict"), numbers, output


def test_pieces_say_what_they_are_pieces_of(tmp_path, model):
    long = " ".join(SENTENCES[:2] * 10)
    documents = {"short": ("T", "Short."), "long": ("A title", long)}
    corpus = write_corpus(
        Folder(str(tmp_path / "in")),
        documents,
        queries=[("1", "one"), ("2", "two")],
        qrels=[("1", "long", "all"), ("2", "short", "all")],
    )
    rows, numbers, output = chunked(tmp_path, model, corpus)
    [short, *pieces] = rows
    assert short == corpus.read_table("documents.parquet").to_pylist(maps_as_pydicts="strict")[0]
    assert numbers["documents_cut"] == 1
    assert numbers["pieces"] == len(pieces) > 3
    assert [row["metadata"]["chunk_number"] for row in pieces] == [str(n + 1) for n in range(len(pieces))]
    for row in pieces:
        place = row["metadata"]
        assert (place["chunk_of"], place["chunk_count"]) == ("long", str(len(pieces)))
        assert row["text"] == long[int(place["chunk_start"]) : int(place["chunk_end"])]
        assert (row["title"], row["language"], row["source"]) == ("A title", "en", "test")
    assert " ".join(row["text"] for row in pieces) == long
    qrels = {(row["query_id"], row["document_id"]) for row in output.read_table("qrels.parquet").to_pylist()}
    assert qrels == {("2", "short"), *(("1", row["document_id"]) for row in pieces)}

    again, _, _ = chunked(tmp_path, model, corpus, name="again")
    assert [row["document_id"] for row in again] == [row["document_id"] for row in rows]
    assert len({row["document_id"] for row in rows}) == len(rows)


def test_equal_pieces_and_equal_texts_have_ids_of_their_own(tmp_path, model):
    rows, _, _ = chunked(tmp_path, model, {"a": (None, "word " * 500), "b": (None, "word " * 500)})
    assert len({row["document_id"] for row in rows}) == len(rows) > 10


def test_a_title_that_leaves_no_room(tmp_path, model):
    documents = {"a": ("word " * 30, "word " * 50), "b": (None, "fits")}
    rows, numbers, output = chunked(tmp_path, model, documents)
    assert [row["document_id"] for row in rows] == ["b"]
    assert numbers["rejected_title_too_long"] == 1
    assert output.read_table("rejected/documents.parquet")["reason"].to_pylist() == ["title_too_long"]


def test_a_document_of_ten_megabytes(tmp_path, model):
    text = " ".join(SENTENCES) * 60_000
    assert len(text.encode()) > 10_000_000
    rows, numbers, _ = chunked(tmp_path, model, {"long": (None, text)}, max_tokens=2048)
    assert numbers["pieces"] == len(rows)
    joined = "".join("".join(row["text"].split()) for row in rows)
    assert joined == "".join(text.split())


def test_texts_of_white_space_and_without_any(tmp_path, model):
    documents = {"empty": (None, ""), "white": (None, " \n" * 2000), "run": (None, "x" * 3000)}
    rows, _, _ = chunked(tmp_path, model, documents)
    assert [row["document_id"] for row in rows[:2]] == ["empty", "white"]
    assert "".join(row["text"] for row in rows[2:]) == "x" * 3000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": 8}, "`max_tokens` is 8"),
        ({"overlap_tokens": 17}, "between 0 and half of `max_tokens`, 16"),
        ({"overlap_tokens": -1}, "`overlap_tokens` is -1"),
    ],
)
def test_wrong_settings(tmp_path, model, change, message):
    with pytest.raises(ValueError, match=message):
        chunked(tmp_path, model, {"a": (None, "text")}, **change)


def test_a_model_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        chunked(tmp_path, Folder(str(tmp_path)), {"a": (None, "text")})


def test_ids_that_collide_are_refused(tmp_path, model):
    row = {"text": "text", "language": "en", "source": "test", "document_id": "a"}
    corpus = Folder(str(tmp_path / "in"))
    corpus.write_table("documents.parquet", pa.Table.from_pylist([row, row], schema=DOCUMENTS))
    with pytest.raises(ValueError, match="document id `a` more than once"):
        chunked(tmp_path, model, corpus)


def test_a_tokenizer_that_truncates_and_pads_is_not_taken_at_its_word():
    stored = json.loads(TOKENIZERS["byte-level BPE"].to_str())
    tokenizer = Tokenizer.from_str(json.dumps(stored))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=128)
    text = "word " * 200
    plain = Chunker(json.dumps(stored), 32, 0)(None, text)
    assert Chunker(tokenizer.to_str(), 32, 0)(None, text) == plain
    assert len(plain) > 5
