"""Data sets of the Hugging Face hub: `hub://NAME`, `hub://NAME@REVISION`, read through `datasets`.

NAME is an id on the hub, or a directory in the hub's layout. Only files are read: no code of a data set is run.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEME = "hub://"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_rows(source: str, subset: str | None, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream (place, row). Numbers that stand for classes are replaced by the classes' names.

    Raises:
        ValueError: the extra `hub` is not installed, or there is no such data set, subset or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"{source}: data sets of the hub need the package `datasets`; install embedloom[hub]"
        ) from error
    name, revision = _parse(source)
    try:
        table = datasets.load_dataset(name, subset, split=split, revision=revision)
    # The library raises what its many parts raise; each says that the data cannot be had.
    except Exception as error:
        raise ValueError(f"{source} cannot be read: {_first_line(error)}") from error
    classes = {
        column: feature
        for column, feature in table.features.items()
        if isinstance(feature, datasets.ClassLabel)
    }
    for number, row in enumerate(table, start=1):
        for column, feature in classes.items():
            if row[column] is not None:
                row[column] = feature.int2str(row[column]) if row[column] >= 0 else None
        yield f"{source} row {number}", row


def hub_digest(source: str) -> str:
    """What identifies the content: the commit on the hub, or a digest of the directory's files.

    Raises:
        ValueError: the hub cannot be asked.
    """
    from components.model.names import digest_files

    name, revision = _parse(source)
    if Path(name).is_dir():
        return digest_files(Path(name))
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    from components.model.hub_errors import HUB_ERRORS

    try:
        return str(HfApi().dataset_info(name, revision=revision, timeout=20).sha)
    except HUB_ERRORS as error:
        raise ValueError(
            f"{source}: the hub does not tell its commit ({_first_line(error)}); "
            f"write {SCHEME}{name}@COMMIT to use what is in the cache"
        ) from error


def pinned(source: str, digest: str) -> str:
    """The source at the commit that its digest names."""
    name, _ = _parse(source)
    return source if Path(name).is_dir() else f"{SCHEME}{name}@{digest}"


def _parse(source: str) -> tuple[str, str | None]:
    name, _, revision = source.removeprefix(SCHEME).partition("@")
    return name, revision or None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
