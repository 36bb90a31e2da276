"""What becomes of pairs on the way to tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from training_rows import pair_table

from components.model.embedder import Embedder
from components.training.identities import NO_ID, digest
from components.training.tokens import PairTokenizer, TokenisedPairs, encoding_digest


def pair(**values: object) -> dict[str, object]:
    """All columns, for a table has those of its first row."""
    row: dict[str, object] = {
        "pair_id": "p",
        "query": "w1",
        "positive": "w2",
        "query_id": "",
        "positive_id": "",
    }
    row |= {"task": "t", "instruction": None, "negatives": None, "negative_ids": None, "score": None}
    return row | values


def tokenised(model: Path, rows: list[dict], negatives_per_query: int = 9) -> TokenisedPairs:
    return PairTokenizer(model, negatives_per_query, 5, 6)(pa.Table.from_pylist(rows))


def with_template(model: Path, directory: Path, template: str) -> Path:
    embedder = Embedder.load(model)
    embedder.spec = replace(embedder.spec, query_template=template, instruction="w1")
    embedder.save(directory)
    return directory


def test_the_model_s_own_tokens(tiny_model: Path) -> None:
    found = tokenised(
        tiny_model,
        [
            pair(pair_id="a", query="w1 w2", positive="w3", negatives=["w4", "w5 w6 w7 w8 w9"], query_id="q"),
            pair(pair_id="b", query="w3 w1 w1 w1 w1 w1 w1", positive="w4", task="u", score=2.5),
        ],
    )
    # [CLS] is 2, [SEP] 3, wN is N + 4; cut at 5 and at 6 tokens with the end kept
    assert found.rows.to_pylist() == [
        {"pair_id": "a", "query": [2, 5, 6, 3], "positive": [2, 7, 3],
         "negatives": [[2, 8, 3], [2, 9, 10, 11, 12, 3]], "score": None},
        {"pair_id": "b", "query": [2, 7, 5, 5, 3], "positive": [2, 8, 3], "negatives": [], "score": 2.5},
    ]  # fmt: skip
    assert found.tasks == ["t", "u"]
    assert found.negatives_R.tolist() == [2, 0]
    assert found.tokens_R.tolist() == [4 + 3 + 3 + 6, 5 + 3]
    assert found.digests.query_text_R[0] == digest("w1 w2")
    assert found.digests.query_id_R.tolist() == [digest("q"), NO_ID]
    assert found.digests.negative_text_M.tolist() == [digest("w4"), digest("w5 w6 w7 w8 w9")]
    assert not found.rejected.num_rows


def test_as_the_embedder_tokenises(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "template", "w9 {instruction} : {text}")
    table = pair_table(30).append_column("instruction", pa.array([None, "w2 w3", "w4"] * 10))
    found = PairTokenizer(model, 1, None, None)(table).rows
    embedder = Embedder.load(model)
    for row, tokens in zip(table.to_pylist(), found.to_pylist(), strict=True):
        assert [tokens["query"]] == embedder.tokenize([row["query"]], "query", row["instruction"])
        assert [tokens["positive"]] == embedder.tokenize([row["positive"]], "document")
        assert tokens["negatives"] == embedder.tokenize(row["negatives"][:1], "document")


def test_a_query_s_digest_is_of_its_wording_alone(tiny_model: Path) -> None:
    found = tokenised(tiny_model, [pair(instruction="one"), pair(instruction="two"), pair(query="w9")])
    one, two, other = found.digests.query_text_R.tolist()
    assert one == two != other


def test_so_many_negatives_at_most(tiny_model: Path) -> None:
    rows = [pair(negatives=["w4", "w5", "w6"], negative_ids=["x", "y", "z"]), pair(negatives=["w7"]), pair()]
    found = tokenised(tiny_model, rows, negatives_per_query=2)
    assert found.rows.column("negatives").to_pylist() == [[[2, 8, 3], [2, 9, 3]], [[2, 11, 3]], []]
    assert found.digests.negative_id_M.tolist() == [digest("x"), digest("y"), NO_ID]
    assert tokenised(tiny_model, rows, negatives_per_query=0).negatives_R.tolist() == [0, 0, 0]


@pytest.mark.parametrize("nothing", ["", "  ", "\n\t"])
def test_a_row_with_an_empty_text_is_turned_away(tiny_model: Path, nothing: str) -> None:
    rows = [
        pair(pair_id="q", query=nothing),
        pair(pair_id="good", negatives=["w1"]),
        pair(pair_id="p", positive=nothing, negatives=[nothing, "w5"]),
        pair(pair_id="n", negatives=["w4", nothing]),
    ]
    found = tokenised(tiny_model, rows)
    assert found.rows.column("pair_id").to_pylist() == ["good"]
    assert found.negatives_R.tolist() == [1]
    assert found.digests.negative_text_M.tolist() == [digest("w1")]
    assert np.concatenate([found.digests.query_text_R, found.digests.positive_id_R]).shape == (2,)
    reasons = zip(*(found.rejected.column(name).to_pylist() for name in ("pair_id", "reason")), strict=True)
    assert list(reasons) == [("q", "empty_query"), ("p", "empty_positive"), ("n", "empty_negative")]
    # A negative that is not taken costs nothing.
    assert tokenised(tiny_model, rows, negatives_per_query=1).rows.column("pair_id").to_pylist() == [
        "good", "n",
    ]  # fmt: skip


def test_a_template_that_leaves_no_room_for_text(tiny_model: Path, tmp_path: Path) -> None:
    model = with_template(tiny_model, tmp_path / "template", "w9 {instruction} w8 {text}")
    with pytest.raises(
        ValueError, match="query_length 5 leaves no room for text: the template 'w9 w1 w8 ' alone takes 5"
    ):
        tokenised(model, [pair()])
    with pytest.raises(ValueError, match="the template 'w9 w2 w3 w8 ' alone takes 6 tokens"):
        PairTokenizer(model, 0, 6, 6)(pa.Table.from_pylist([pair(), pair(instruction="w2 w3")]))
    # One token of room is room.
    assert PairTokenizer(model, 0, 6, 6)(pa.Table.from_pylist([pair(query="w7 w7")])).rows.column(
        "query"
    ).to_pylist() == [[2, 13, 5, 12, 11, 3]]
    with pytest.raises(ValueError, match="a length of 2 tokens leaves no room for text"):
        PairTokenizer(model, 0, 6, 2)(pa.Table.from_pylist([pair()]))


def test_bad_rows(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="pair p has 2 negatives but 1 negative_ids"):
        tokenised(tiny_model, [pair(negatives=["w4", "w5"], negative_ids=["x"])])
    with pytest.raises(ValueError, match="pair p has a null among its negatives"):
        tokenised(tiny_model, [pair(negatives=["w4", None])])
    with pytest.raises(ValueError, match="column `task` is missing"):
        tokenised(tiny_model, [{k: v for k, v in pair().items() if k != "task"}])
    with pytest.raises(ValueError, match="document_length is 65; the backbone has 64 positions"):
        PairTokenizer(tiny_model, 0, 5, 65)


def test_the_encoding_is_of_tokenizer_and_templates(tiny_model: Path, tmp_path: Path) -> None:
    Embedder.load(tiny_model).save(tmp_path / "copy")
    assert encoding_digest(tiny_model) == encoding_digest(tmp_path / "copy")
    assert encoding_digest(with_template(tiny_model, tmp_path / "t", "q {text}")) != encoding_digest(
        tiny_model
    )
