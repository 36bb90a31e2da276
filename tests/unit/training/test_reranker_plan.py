"""A reranker's batches: what is in them, what is refused before anything is computed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from reranking_rows import reranking_table, write_reranking_plan
from tiny_rerankers import write_cross_encoder, write_yes_no_model
from training_rows import pair_table, write_plan

from components.model.reranker import load_reranker
from components.monitor import Silent
from components.storage import Folder
from components.training.judged import stream_judged
from components.training.reranker_stage import train_reranker


def changed(table: pa.Table, **columns: list) -> pa.Table:
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(
            at, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    return table


@pytest.mark.parametrize("write", [write_yes_no_model, write_cross_encoder])
def test_batches_hold_what_the_reranker_reads(tmp_path: Path, write) -> None:
    model = write(tmp_path / "model")
    table = reranking_table(10)
    batches = write_reranking_plan(model, tmp_path, table, "distillation", steps=2, batch_size=3)
    reranker = load_reranker(model)
    rows = {}
    for row in table.to_pylist():
        documents = [row["positive"], *row["negatives"]]
        count = len(documents)
        tokens = reranker.tokenize([row["query"]] * count, documents, [row["instruction"]] * count)
        rows[tuple(tokens[0].ids)] = tokens, np.float32(row["teacher_scores"])
    seen = []
    shares = [stream_judged(batches, 0, rank, 2) for rank in range(2)]
    for one, two in zip(*shares, strict=True):
        assert one.global_tokens == two.global_tokens == one.tokens.lengths.sum() + two.tokens.lengths.sum()
        for share in (one, two):
            for row in np.unique(share.row):
                at = np.flatnonzero(share.row == row)
                found = [share.pairs()[number] for number in at]
                expected, teacher = rows[tuple(found[0].ids)]
                assert found == expected
                np.testing.assert_array_equal(share.teacher_scores[at], teacher)
                np.testing.assert_array_equal(share.label[at], [1.0] + [0.0] * (len(at) - 1))
                seen.append(tuple(found[0].ids))
    assert len(set(seen)) == len(seen) == 6  # of 10 rows, 4 have no negative: of these nothing is learnt


def test_rows_that_cannot_be_used_are_rejected(tmp_path: Path) -> None:
    model = write_yes_no_model(tmp_path / "model")
    table = reranking_table(9)
    table = changed(
        table,
        query=[" " if row == 1 else text for row, text in enumerate(table["query"].to_pylist())],
        positive=["" if row == 2 else text for row, text in enumerate(table["positive"].to_pylist())],
        negatives=[["\n"] if row == 4 else texts for row, texts in enumerate(table["negatives"].to_pylist())],
        teacher_scores=[
            None if row == 7 else row_ for row, row_ in enumerate(table["teacher_scores"].to_pylist())
        ],
    )
    batches = write_reranking_plan(model, tmp_path, table, "distillation", steps=1, batch_size=2)
    rejected = batches.read_table("rejected/rejected.parquet").select(["pair_id", "reason"]).to_pylist()
    assert {row["pair_id"]: row["reason"] for row in rejected} == {
        "pair-0": "no_negative", "pair-1": "empty_query", "pair-2": "empty_positive", "pair-3": "no_negative",
        "pair-4": "empty_negative", "pair-6": "no_negative", "pair-7": "no_teacher_scores",
    }  # fmt: skip


def test_labels_all_of_one_kind_are_an_error(tmp_path: Path) -> None:
    model = write_yes_no_model(tmp_path / "model")
    table = reranking_table(6)
    table = changed(table, negatives=[None] * 6, negative_ids=[None] * 6)
    with pytest.raises(ValueError, match="every label is yes: none of 6 pairs has a negative"):
        write_reranking_plan(model, tmp_path, table, "full_vocabulary")
    with pytest.raises(ValueError, match=r"none of 6 rows can be trained on \(6 no_negative\)"):
        write_reranking_plan(model, tmp_path, table, "listwise")


@pytest.mark.parametrize(
    ("kind", "planned", "changes", "message"),
    [
        ("encoder", "two_way", {"objective": {}}, "answers with one number and has no vocabulary"),
        (
            "decoder",
            "two_way",
            {"objective": {"loss": "listwise"}},
            "not planned for objective.loss 'listwise'",
        ),
        (
            "decoder",
            "listwise",
            {"objective": {"loss": "distillation"}},
            "not planned for objective.loss 'dist",
        ),
        ("decoder", "two_way", {"objective": {"loss": "hinge"}}, "objective.loss is 'hinge'"),
        ("decoder", "two_way", {"training_head": "mlp"}, "training_head is an embedder's"),
        ("decoder", "two_way", {"num_workers": 9}, "9 workers need one each"),
        ("decoder", "other", {}, "tokenised for a model with another tokenizer or other templates"),
        ("embedder", "", {}, "is no plan of a reranker"),
    ],
)
def test_refused(
    tmp_path: Path, tiny_model: Path, kind: str, planned: str, changes: dict, message: str
) -> None:
    write = write_cross_encoder if kind == "encoder" else write_yes_no_model
    model = write(tmp_path / "reranker")
    if kind == "embedder":
        batches = write_plan(tiny_model, tmp_path, pair_table(12))
    elif planned == "other":
        other = write_cross_encoder(tmp_path / "other")
        batches = write_reranking_plan(other, tmp_path, reranking_table(9), "two_way")
    else:
        batches = write_reranking_plan(model, tmp_path, reranking_table(9), planned)
    arguments = {
        "batches": batches, "model": Folder(str(model)), "objective": {"loss": "two_way"}, "learning_rate": 1e-3,
        "output": Folder(str(tmp_path / "output")), "state": Folder(str(tmp_path / "state")), "monitor": Silent(),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        train_reranker(**(arguments | changes))
