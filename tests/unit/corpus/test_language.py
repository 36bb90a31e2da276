import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from components.corpus.language import identify_languages, language_code
from components.corpus.schema import DOCUMENTS
from components.monitor import Silent
from components.storage import Folder

DATA = Path(__file__).parents[4] / "shared" / "data"
SETTINGS = {
    "keep": None, "candidates": ["en", "de", "fr", "ja", "zh"], "stated": "replace", "undetermined": "keep_stated",
    "min_letters": 20, "confidence": 0.5, "accuracy": "low", "sample_characters": 500, "monitor": Silent(),
}  # fmt: skip
ENGLISH = "The library returns the number of rows that were read before the connection was closed."
GERMAN = "Die Bibliothek gibt die Anzahl der Zeilen zurück, die vor dem Schließen gelesen wurden."
CHINESE = "该函数返回在连接关闭之前读取的行数。如果没有读取任何行，则返回零，并且不会引发任何异常。"
JAPANESE = "この関数は、接続が閉じられる前に読み込まれた行の数を返します。"


def identified(tmp_path, documents, **settings):
    """documents: id -> (stated language, text)."""
    rows = [
        {"document_id": key, "language": language, "text": text, "source": "test"}
        for key, (language, text) in documents.items()
    ]
    corpus, output = Folder(str(tmp_path / "in")), Folder(str(tmp_path / "out"))
    corpus.write_table("documents.parquet", pa.Table.from_pylist(rows, schema=DOCUMENTS))
    numbers = identify_languages(documents=corpus, output=output, **(SETTINGS | settings))
    table = output.read_table("documents.parquet").to_pylist()
    there = output.exists("rejected/documents.parquet")
    rejected = output.read_table("rejected/documents.parquet").to_pylist() if there else []
    kept = {row["document_id"]: row["language"] for row in table}
    return kept, {row["document_id"]: (row["reason"], row["detail"]) for row in rejected}, numbers


def test_languages_are_filled_in_and_those_not_wanted_go(tmp_path):
    documents = {
        "a": ("", ENGLISH), "b": ("en", GERMAN), "c": ("en", CHINESE), "d": (" ", JAPANESE), "e": ("de", GERMAN),
    }  # fmt: skip
    kept, rejected, numbers = identified(tmp_path, documents, keep=["en", "de", "ja"])
    assert kept == {"a": "en", "b": "de", "d": "ja", "e": "de"}
    assert rejected["c"] == ("other_language", "zh 1.00")
    assert (numbers["detected"], numbers["kept_de"], numbers["rejected_other_language"]) == (5, 2, 1)
    assert (numbers["too_short"], numbers["uncertain"]) == (0, 0)


def test_a_stated_language_can_be_checked(tmp_path):
    documents = {"a": ("en-US", ENGLISH), "b": ("en", GERMAN), "c": ("", GERMAN), "d": ("ZH_Hant", CHINESE)}
    kept, rejected, _ = identified(tmp_path, documents, stated="check")
    assert kept == {"a": "en", "c": "de", "d": "zh"}
    assert rejected["b"][0] == "stated_otherwise"
    assert rejected["b"][1].startswith("de ")


def test_too_short_and_uncertain_are_outcomes_of_their_own(tmp_path):
    documents = {
        "short": ("en", "See below."),
        "short, nothing stated": ("", "See below."),
        "short, not wanted": ("fr", "Oui, monsieur."),
        "no letters": ("en", "12 34 56 !!! " * 20),
        "blank": ("", " \n\t "),
        "empty": ("en", ""),
        "long": ("", ENGLISH),
        "mixed": ("en", "Hotel Restaurant Bar Taxi Bus Sport Radio Film Computer"),
    }
    kept, rejected, numbers = identified(tmp_path, documents, keep=["en"], confidence=0.95)
    assert kept == dict.fromkeys(("short", "no letters", "empty", "long", "mixed"), "en")
    assert rejected["short, nothing stated"] == ("too_short", "8 letters")
    assert rejected["blank"] == ("too_short", "0 letters")
    assert rejected["short, not wanted"][0] == "other_language"
    assert (numbers["too_short"], numbers["uncertain"], numbers["detected"]) == (6, 1, 1)

    kept, rejected, numbers = identified(tmp_path / "2", documents, confidence=0.95, undetermined="reject")
    assert kept == {"long": "en"}
    assert rejected["mixed"][0] == "uncertain"
    assert numbers["rejected_too_short"] == 6


def test_a_short_sentence_without_spaces_is_not_too_short(tmp_path):
    kept, rejected, _ = identified(
        tmp_path, {"zh": ("", "今天天气很好"), "ja": ("", "これはペンです"), "few": ("", "今天好")}
    )
    assert kept == {"zh": "zh", "ja": "ja"}
    assert rejected["few"] == ("too_short", "12 letters")


def test_a_document_of_ten_megabytes_is_known_by_its_beginning(tmp_path):
    kept, _, _ = identified(tmp_path, {"a": ("", (GERMAN + " ") * 120_000)})
    assert kept == {"a": "de"}


def test_language_codes():
    assert [language_code(tag) for tag in ("en", "en-US", "ZH_Hant", " De ", "")] == [
        "en",
        "en",
        "zh",
        "de",
        "",
    ]


@pytest.mark.skipif(not (DATA / "tldr").is_dir(), reason="tldr is not in ../shared/data")
def test_real_pages_in_two_languages(tmp_path):
    documents = {}
    for language in ("en", "zh"):
        with gzip.open(DATA / "tldr" / f"corpus.{language}.jsonl.gz", "rt", encoding="utf-8") as file:
            for number, line in enumerate(file):
                if number == 300:
                    break
                documents[f"{language}{number}"] = ("", json.loads(line)["text"])
    kept, _, numbers = identified(tmp_path, documents, candidates=["en", "zh"])
    assert numbers["detected"] > 0.97 * len(documents)
    assert sum(key.startswith(language) for key, language in kept.items()) > 0.97 * numbers["detected"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": ["english"]}, "`keep` names english; languages are ISO 639-1"),
        ({"candidates": ["en", "xx"]}, "`candidates` names xx"),
        ({"candidates": ["en"]}, "at least two languages"),
        ({"keep": ["es"]}, "`keep` names es, which `candidates` does not"),
        ({"confidence": 70}, "`confidence` is 70"),
        ({"sample_characters": 0}, "`sample_characters` is 0"),
    ],
)
def test_wrong_settings(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        identified(tmp_path, {"a": ("en", ENGLISH)}, **change)


def test_no_document_in_a_language_that_is_wanted(tmp_path):
    with pytest.raises(ValueError, match=r"nothing is left of the 1 rows .*rejected_other_language"):
        identified(tmp_path, {"a": ("en", ENGLISH)}, keep=["fr"])
