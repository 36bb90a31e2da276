"""Pairs of one kind, completed, checked, put in an order of their own, and written."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.schema import PAIRS, content_id
from components.pairs.sources.kinds import Kind, Row
from components.pairs.sources.ordering import sort_tables
from components.pairs.table import REJECTED, PairWriter

_ORDER = "order"
_ORDERED = pa.schema([*PAIRS, pa.field(_ORDER, pa.string(), nullable=False)])
_NEGATIVES = ("negatives", "negative_ids")
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Label:
    """What all pairs of a source have in common.

    Attributes:
        kind: name.
        language: of a pair whose row names none.
    """

    kind: str
    task: str
    instruction: str | None
    origin: str
    language: str


def write_pairs(
    found: Iterable[Row], kind: Kind, label: Label, limit: int | None, seed: int, writer: PairWriter
) -> int:
    """Write what a kind found.

    The order is that of a seeded hash of the pair's id, so that a limit takes a sample which does not depend
    on the order of the input. Ids that a source does not give are hashes of the text. Turned away, beside what
    the kind rules out: `empty` (a side without text), `query_is_positive`, `negative_ids_differ` (they are not as
    many as the negatives), `repeated` (a pair that is there already, which takes over its negatives),
    `over_limit`. A negative without text or with the words of the positive is left out.

    Args:
        limit: at most so many pairs; None: all.

    Returns: how many were written.
    """
    written = 0
    with tempfile.TemporaryDirectory(prefix="pairs-") as scratch:
        ordered = sort_tables(_sound(found, kind, label, seed, writer), _ORDER, Path(scratch))
        for table in _whole_groups(ordered):
            table, again = _united(table.drop_columns(_ORDER))
            reasons: list[str | None] = []
            for repeated in again:
                if repeated:
                    reasons.append("repeated")
                elif limit is not None and written >= limit:
                    reasons.append("over_limit")
                else:
                    reasons.append(None)
                    written += 1
            kept = pa.array([reason is None for reason in reasons], pa.bool_())
            writer.keep(table.filter(kept))
            turned_away = table.filter(pc.invert(kept))
            writer.reject(turned_away, [reason for reason in reasons if reason is not None])
    return written


def _whole_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows, with equal pairs, which stand together, in one table."""
    held: pa.Table | None = None
    for table in tables:
        if not table.num_rows:
            continue
        table = pa.concat_tables([held, table]) if held is not None else table
        last = pc.index(table["pair_id"], table["pair_id"][-1]).as_py()
        if last:
            yield table.slice(0, last)
        held = table.slice(last)
    if held is not None:
        yield held


def _united(table: pa.Table) -> tuple[pa.Table, list[bool]]:
    """The first of equal pairs with the negatives of all, each once; and for every row whether it is a later one.

    Triples have one negative a row: of a query and its positive there are as many rows as negatives.
    """
    pair_ids = table["pair_id"].to_pylist()
    again = [False, *(pair_id == before for before, pair_id in itertools.pairwise(pair_ids))]
    if not any(again):
        return table, again
    columns = [table[name].to_pylist() for name in _NEGATIVES]
    texts, ids = columns
    for _, group in itertools.groupby(range(len(pair_ids)), key=pair_ids.__getitem__):
        rows = list(group)
        united: dict[str, str] = {}
        for row in rows:
            for text, negative_id in zip(texts[row] or (), ids[row] or (), strict=True):
                united.setdefault(text, negative_id)
        if len(rows) > 1 and united:
            texts[rows[0]], ids[rows[0]] = list(united), list(united.values())
    for name, column in zip(_NEGATIVES, columns, strict=True):
        field = table.schema.field(name)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    return table, again


def _sound(
    found: Iterable[Row], kind: Kind, label: Label, seed: int, writer: PairWriter
) -> Iterator[pa.Table]:
    """Complete pairs with the key of their order; those that cannot be used are turned away."""
    found = iter(found)
    while rows := list(itertools.islice(found, _ROWS_AT_ONCE)):
        sound, turned_away, reasons = [], [], []
        for row in rows:
            pair = _complete(row, label)
            reason = _reason(row, pair, kind)
            if reason:
                turned_away.append(pair)
                reasons.append(reason)
            else:
                # The last keys make the order of equal pairs independent of the order of the input.
                order = (content_id(str(seed), pair["pair_id"]), pair["positive_id"], pair["query_id"])
                rest = (repr(pair["score"]), *(pair["negatives"] or ()))
                sound.append(pair | {_ORDER: "\x1f".join([*order, *rest])})
        writer.reject(pa.Table.from_pylist(turned_away, schema=REJECTED.remove(len(PAIRS))), reasons)
        yield pa.Table.from_pylist(sound, schema=_ORDERED)


def _complete(row: Row, label: Label) -> Row:
    query, positive = row["query"] or "", row["positive"] or ""
    negatives, negative_ids = _negatives(row, positive)
    return {
        "pair_id": content_id(label.kind, label.task, query, positive),
        "query": query,
        "positive": positive,
        "query_id": row.get("query_id") or content_id(query),
        "positive_id": row.get("positive_id") or content_id(positive),
        "negatives": negatives,
        "negative_ids": negative_ids,
        "task": label.task,
        "instruction": label.instruction,
        "language": row.get("language") or label.language,
        "origin": label.origin,
        "score": row.get("score"),
    }


def _negatives(row: Row, positive: str) -> tuple[list[str] | None, list[str] | None]:
    """Texts and ids of the negatives that can be used; None where there are none."""
    texts, ids = (_listed(row.get(name)) for name in _NEGATIVES)
    ids = ids if len(ids) == len(texts) else [None] * len(texts)
    usable = [
        (text, negative_id or content_id(text))
        for text, negative_id in zip(texts, ids, strict=True)
        if text and text.strip() and text.split() != positive.split()
    ]
    return ([text for text, _ in usable], [each for _, each in usable]) if usable else (None, None)


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else value or []


def _reason(row: Row, pair: Row, kind: Kind) -> str | None:
    if row.get("reason"):
        return row["reason"]
    if not pair["query"].strip() or not pair["positive"].strip():
        return "empty"
    if not kind.equal_sides and pair["query"].split() == pair["positive"].split():
        return "query_is_positive"
    if row.get("negative_ids") and len(_listed(row["negative_ids"])) != len(_listed(row.get("negatives"))):
        return "negative_ids_differ"
    return None
