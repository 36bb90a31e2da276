"""Sets of rows to judge a model on: JSON lines of two texts, or of a text and its label."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
import pyarrow.json

from components.storage import Folder

Kind = Literal["similarity", "pair-classification", "classification", "clustering", "bitext"]

_NAMES = {
    "first": ("sentence1", "text1"),
    "second": ("sentence2", "text2"),
    "text": ("text", "sentence"),
    "label": ("label", "label_text"),
    "score": ("score",),
}

ROLES: Mapping[Kind, Sequence[str]] = {
    "similarity": ("first", "second", "score"),
    "pair-classification": ("first", "second", "label"),
    "classification": ("text", "label"),
    "clustering": ("text", "label"),
    "bitext": ("first", "second"),
}
"""What a row holds, by the kind of evaluation."""


def file_digest(data: str, file: str, kind: Kind) -> str:
    """SHA-256 of a file, once it is seen to hold what the kind needs. Raises ValueError as `read_labelled`."""
    read_labelled(Folder(data), file, ROLES[kind])
    return hashlib.sha256(Folder(data).read(file)).hexdigest()


def read_labelled(data: Folder, file: str, roles: Sequence[str]) -> dict[str, list]:
    """Columns of a JSON lines file, by what they are.

    Args:
        roles: `first` (a column sentence1 or text1), `second` (sentence2, text2), `text` (text, sentence), `label`
            (label, label_text), `score`.

    Raises:
        ValueError: the file is missing, is not JSON lines, has no rows, or lacks a column or a value in one.
    """
    where = data.path(file)
    if not data.exists(file):
        raise ValueError(f"there is no file {where}")
    with data.open(file) as opened:
        try:
            table = pyarrow.json.read_json(opened)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{where} is not JSON lines: {error}") from error
    if not table.num_rows:
        raise ValueError(f"{where} has no rows")
    columns = {}
    for role in roles:
        name = next((name for name in _NAMES[role] if name in table.column_names), None)
        if name is None:
            raise ValueError(
                f"{where} has no column {' or '.join(_NAMES[role])}; it has {table.column_names}"
            )
        if table[name].null_count:
            row = table[name].is_null().index(pa.scalar(True)).as_py()
            raise ValueError(f"{where} has no {name} in row {row + 1}")
        columns[role] = table[name].to_pylist()
    return columns


def digest_of(columns: dict[str, list], *judged: object) -> str:
    """sha256 of the rows and of what else decides how they are judged."""
    rows = json.dumps([columns, judged], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()
