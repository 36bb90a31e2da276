"""The sort over files against the same order taken in memory."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.corpus.spool import read_spool, reordered, write_spool

SCHEMA = pa.schema([("n", pa.int64()), ("lists", pa.list_(pa.list_(pa.int32())))])


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), data=st.data(), seed=st.integers(0, 99))
def test_rows_come_in_their_new_order(
    tmp_path: Path, sizes: list[int], data: st.DataObject, seed: int
) -> None:
    rows = sum(sizes)
    if not rows:
        return
    rng = np.random.default_rng(seed)
    lists = [[[int(row)] * int(count) for count in rng.integers(0, 3, row % 3)] for row in range(rows)]
    table = pa.table([np.arange(rows), lists], schema=SCHEMA)
    bounds = np.cumsum([0, *sizes])
    write_spool(
        tmp_path / "spool",
        SCHEMA,
        (table.slice(a, b - a) for a, b in itertools.pairwise(bounds)),
    )
    place = rng.permutation(rows)
    starts = sorted(data.draw(st.sets(st.integers(1, max(1, rows - 1)), max_size=4)) - {rows} | {0})

    parts = list(reordered(read_spool(tmp_path / "spool"), SCHEMA, place, starts, tmp_path))

    assert [part.num_rows for part in parts] == np.diff([*starts, rows]).tolist()
    assert pa.concat_tables(parts).equals(table.take(pa.array(np.argsort(place))))
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
