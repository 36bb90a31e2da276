"""What becomes of pairs on the way to token tables."""

from pathlib import Path

import pyarrow as pa
import pytest

from components.model.embedder import Embedder
from components.storage import Folder
from components.training.tokens import TrainingRows, read_training_rows, tokenise_pairs


def pair(**values: object) -> dict[str, object]:
    row = {"pair_id": "p", "query": "w1", "positive": "w2", "query_id": "", "positive_id": "", "task": "t"}
    return row | {"language": "en", "origin": "test"} | values


def tokenised(
    model: Path, directory: Path, *tables: list[dict], negatives_per_query: int = 9
) -> TrainingRows:
    folder = Folder(str(directory))
    parts = [pa.Table.from_pylist(rows) for rows in tables]
    tokenise_pairs(parts, Embedder.load(model), negatives_per_query, 5, 6, folder)
    return read_training_rows(folder)


def test_each_text_once_and_in_the_model_s_own_tokens(tiny_model: Path, tmp_path: Path) -> None:
    rows = tokenised(
        tiny_model,
        tmp_path / "tokens",
        [
            pair(pair_id="a", query="w1 w2", positive="w3", negatives=["w4", "w5 w6 w7 w8 w9"]),
            pair(pair_id="b", query="w1 w2", positive="w4"),
        ],
        [pair(pair_id="c", query="w3 w1 w1 w1 w1 w1 w1", positive="w3", negatives=["w4"])],
    )
    assert rows.pair_ids == ["a", "b", "c"]
    assert len(rows.tokens) == 2 + 3
    # [CLS] is 2, [SEP] 3, wN is N + 4; cut at 5 and at 6 tokens with the end kept
    assert rows.tokens[rows.queries[0]].tolist() == [2, 5, 6, 3]
    assert rows.tokens[rows.queries[2]].tolist() == [2, 7, 5, 5, 3]
    assert rows.tokens[rows.negatives[0][1]].tolist() == [2, 9, 10, 11, 12, 3]
    assert rows.queries[0] == rows.queries[1] != rows.queries[2]
    assert rows.positives[0] == rows.positives[2]
    assert rows.negatives[0][0] == rows.negatives[2][0] == rows.positives[1]
    assert [len(rows.negatives[i]) for i in range(3)] == [2, 0, 1]
    # the other document that answers the query of a and b, by identity
    assert rows.known_positives[0].tolist() == [rows.identities[rows.positives[1]]]
    assert rows.known_positives[1].tolist() == [rows.identities[rows.positives[0]]]
    assert rows.known_positives[2].tolist() == []


def test_documents_are_one_by_text_or_by_id(tiny_model: Path, tmp_path: Path) -> None:
    rows = tokenised(
        tiny_model,
        tmp_path / "tokens",
        [
            pair(query="w1", positive="w10", positive_id="x", negatives=["w30"], negative_ids=["z"]),
            pair(query="w2", positive="w20 w10", positive_id="y", negatives=["w10 w40"], negative_ids=["x"]),
            pair(query="w3", positive="w30", positive_id="y"),
        ],
    )
    identity = [rows.identities[text] for text in rows.positives]
    assert identity[0] != identity[1] == identity[2]
    assert rows.identities[rows.negatives[1][0]] == identity[0]  # another text, the same id
    assert rows.identities[rows.negatives[0][0]] == identity[2]  # another id, the same text


def test_a_query_is_one_whatever_its_instruction(tiny_model: Path, tmp_path: Path) -> None:
    rows = tokenised(
        tiny_model,
        tmp_path / "tokens",
        [pair(instruction="one", positive="w5"), pair(instruction="two", positive="w6"), pair(query="w9")],
    )
    identity = [rows.identities[text] for text in rows.queries]
    assert identity[0] == identity[1] != identity[2]
    assert rows.queries[0] != rows.queries[1]
    assert rows.known_positives[0].tolist() == [rows.identities[rows.positives[1]]]


def test_so_many_negatives_at_most(tiny_model: Path, tmp_path: Path) -> None:
    rows = tokenised(
        tiny_model, tmp_path / "tokens", [pair(negatives=["w4", "w5", "w6"])], negatives_per_query=2
    )
    assert [rows.tokens[text].tolist() for text in rows.negatives[0]] == [[2, 8, 3], [2, 9, 3]]


def test_bad_tables(tiny_model: Path, tmp_path: Path) -> None:
    empty = pa.Table.from_pylist([pair()]).slice(0, 0)
    with pytest.raises(ValueError, match="no training pairs"):
        tokenise_pairs([empty], Embedder.load(tiny_model), 1, None, None, Folder(str(tmp_path)))
    with pytest.raises(ValueError, match="pair p has 2 negatives but 1 negative_ids"):
        tokenised(tiny_model, tmp_path / "tokens", [pair(negatives=["w4", "w5"], negative_ids=["x"])])
