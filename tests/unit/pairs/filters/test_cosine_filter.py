"""The cosine filter against cosines computed one pair at a time."""

import numpy as np
import pyarrow as pa
import pytest
from filter_pairs import BAD, outcome, run, write_pairs, write_parts

from components.corpus.schema import PAIRS
from components.model.embedder import Embedder
from components.pairs.filters import cosine
from components.pairs.filters.cosine import filter_by_cosine
from components.storage import Folder


@pytest.fixture
def expected(rows, model_directory) -> dict[str, float]:
    embedder = Embedder.load(model_directory)
    sound = [row for row in rows if row["pair_id"] not in BAD]
    positive_ND = embedder.encode([row["positive"] for row in sound], "document").astype(np.float64)
    return {
        row["pair_id"]: float(embedder.encode([row["query"]], "query", row["instruction"])[0] @ positive_D)
        for row, positive_D in zip(sound, positive_ND, strict=True)
    }


def test_threshold_keeps_what_reaches_it(pairs, expected, model_directory, output, monitor):
    threshold = sorted(expected.values())[7] - 1e-6
    numbers = run(
        filter_by_cosine,
        pairs=pairs,
        model=Folder(str(model_directory)),
        threshold=threshold,
        output=output,
        monitor=monitor,
    )
    kept, rejected, reasons = outcome(output)
    assert kept.keys() == {key for key, score in expected.items() if score >= threshold}
    scored = {key: score for key, score in rejected.items() if key not in BAD}
    assert kept | scored == pytest.approx(expected, abs=1e-5)
    assert reasons == BAD | dict.fromkeys(scored, "below_cut")
    table = output.read_table("pairs.parquet")
    assert table["score"].to_pylist() == [int(name[1:]) % 3 for name in table["pair_id"].to_pylist()]
    assert numbers == monitor.numbers
    assert numbers == {
        "rows_in": 23, "rows_out": 13, "kept_share": 13 / 23, "cut": threshold,
        "rejected_below_cut": 7, "rejected_empty_query": 2, "rejected_empty_positive": 1,
        "score_mean_kept": pytest.approx(np.mean(list(kept.values()))),
        "score_mean_rejected": pytest.approx(np.mean(list(scored.values()))),
    }  # fmt: skip
    assert monitor.figures == ["filter_scores.png"]


@pytest.mark.parametrize(("quantile", "kept"), [(0.25, 15), (0.5, 10), (0.0, 20)])
def test_quantile_drops_that_share_of_what_could_be_scored(
    pairs, model_directory, output, monitor, quantile, kept
):
    run(
        filter_by_cosine,
        pairs=pairs,
        model=Folder(str(model_directory)),
        quantile=quantile,
        output=output,
        monitor=monitor,
    )
    found, rejected, _ = outcome(output)
    assert len(found) == kept
    scored = [score for key, score in rejected.items() if key not in BAD]
    assert max(scored, default=-1) < min(found.values())


def test_pieces_and_files_do_not_show(pairs, rows, model_directory, output, tmp_path, monitor, monkeypatch):
    model = Folder(str(model_directory))
    run(filter_by_cosine, pairs=pairs, model=model, quantile=0.5, output=output, monitor=monitor)
    for module in ("components.pairs.piecewise", "components.pairs.filters.outcome"):
        monkeypatch.setattr(f"{module}.ROWS_AT_ONCE", 4)
    parts, again = write_parts(Folder(str(tmp_path / "parts")), rows, 5), Folder(str(tmp_path / "again"))
    run(filter_by_cosine, pairs=parts, model=model, quantile=0.5, output=again, monitor=monitor)
    for name in ("pairs.parquet", "rejected/rejected.parquet"):
        one, other = output.read_table(name), again.read_table(name)
        assert one.drop_columns("measured").equals(other.drop_columns("measured"))
        np.testing.assert_allclose(one["measured"].to_numpy(), other["measured"].to_numpy(), atol=1e-6)


def test_what_was_scored_before_a_crash_is_not_scored_again(
    rows, model_directory, output, tmp_path, monitor, monkeypatch
):
    pairs = write_parts(Folder(str(tmp_path / "parts")), rows, 10)
    state = Folder(str(tmp_path / "state"))
    encoded = []
    encode = cosine._encode

    def counted(embedder, texts, side, *rest):
        if len(encoded) == 2:
            raise RuntimeError("the machine is gone")
        encoded.extend([len(texts)] if side == "document" else [])
        return encode(embedder, texts, side, *rest)

    settings = {"pairs": pairs, "model": Folder(str(model_directory)), "quantile": 0.5, "monitor": monitor}
    monkeypatch.setattr(cosine, "_encode", counted)
    with pytest.raises(RuntimeError):
        run(filter_by_cosine, **settings, output=Folder(str(tmp_path / "lost")), state=state)
    assert len(state.files()) == 2
    encoded.clear()
    run(filter_by_cosine, **settings, output=output, state=state)
    assert len(encoded) == 1  # the third piece
    monkeypatch.undo()
    undisturbed = Folder(str(tmp_path / "undisturbed"))
    run(filter_by_cosine, **settings, output=undisturbed)
    kept, rejected, reasons = outcome(output)
    assert outcome(undisturbed) == (
        pytest.approx(kept, abs=1e-6), pytest.approx(rejected, abs=1e-6, nan_ok=True), reasons
    )  # fmt: skip


def test_a_score_that_is_no_number_is_turned_away(pairs, rows, model_directory, output, monitor, monkeypatch):
    encode = cosine._encode
    broken = rows[3]["positive"]

    def with_nan(embedder, texts, *rest):
        vectors = encode(embedder, texts, *rest)
        vectors[[text == broken for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(cosine, "_encode", with_nan)
    numbers = run(
        filter_by_cosine,
        pairs=pairs,
        model=Folder(str(model_directory)),
        quantile=0.0,
        output=output,
        monitor=monitor,
    )
    kept, _, reasons = outcome(output)
    assert reasons == BAD | {rows[3]["pair_id"]: "score_is_nan"}
    assert len(kept) == 19
    assert numbers["rejected_score_is_nan"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either threshold or quantile"),
        ({"threshold": 0.5, "quantile": 0.5}, "give either threshold or quantile"),
        ({"quantile": 1.0}, "quantile must be in"),
        ({"threshold": 1.1}, r"threshold 1.1 keeps none of 23 pairs"),
    ],
)
def test_refuses(pairs, model_directory, output, monitor, settings, message):
    with pytest.raises(ValueError, match=message):
        run(
            filter_by_cosine,
            pairs=pairs,
            model=Folder(str(model_directory)),
            output=output,
            monitor=monitor,
            **settings,
        )


def test_tables_of_which_nothing_can_be_scored(model_directory, rows, output, tmp_path, monitor):
    model = Folder(str(model_directory))
    empty = Folder(str(tmp_path / "empty"))
    empty.write_table("pairs.parquet", pa.Table.from_pylist([], schema=PAIRS))
    with pytest.raises(ValueError, match="there are no pairs to filter"):
        run(filter_by_cosine, pairs=empty, model=model, quantile=0.5, output=output, monitor=monitor)
    blank = write_pairs(Folder(str(tmp_path / "blank")), [row for row in rows if row["pair_id"] in BAD])
    for cut in ({"quantile": 0.5}, {"threshold": -1.0}):
        with pytest.raises(ValueError, match="none of 3 pairs could be scored"):
            run(filter_by_cosine, pairs=blank, model=model, **cut, output=output, monitor=monitor)
