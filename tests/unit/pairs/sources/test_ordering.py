"""Merged parts against Python's own sort."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pairs.sources import ordering
from components.pairs.sources.ordering import sort_tables


@settings(max_examples=60)
@given(
    pieces=st.lists(st.lists(st.text("abc", max_size=3), max_size=9), max_size=8),
    part_rows=st.integers(1, 12),
)
def test_parts_are_merged_into_one_order(pieces, part_rows, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "PART_ROWS", part_rows)
        numbers = iter(range(10**6))
        tables = [
            pa.table(
                {
                    "key": pa.array(piece, pa.string()),
                    "row": pa.array([next(numbers) for _ in piece], pa.int64()),
                }
            )
            for piece in pieces
        ]
        found = list(sort_tables(iter(tables), "key", tmp_path_factory.mktemp("scratch")))
    rows = [(row["key"], row["row"]) for table in found for row in table.to_pylist()]
    expected = [(row["key"], row["row"]) for table in tables for row in table.to_pylist()]
    assert [key for key, _ in rows] == sorted(key for key, _ in expected)
    assert sorted(rows) == sorted(expected)


def test_a_merge_holds_a_block_of_each_part(tmp_path, monkeypatch):
    monkeypatch.setattr(ordering, "PART_ROWS", 20_000)
    keys = [f"{row * 7919 % 100_000:06d}" for row in range(100_000)]
    pieces = (pa.table({"key": keys[start : start + 1000]}) for start in range(0, 100_000, 1000))
    sizes, last = [], ""
    for table in sort_tables(pieces, "key", tmp_path):
        block = table["key"].to_pylist()
        assert last <= block[0]
        assert block == sorted(block)
        sizes.append(len(block))
        last = block[-1]
    assert sum(sizes) == 100_000
    assert max(sizes) <= 5 * 20_000 // 64 + 5 * 256
