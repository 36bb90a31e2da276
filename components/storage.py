"""Where bytes live: a folder named by URI (a local path, s3://..., memory://...).

Every step reads and writes through `Folder`, so nothing in the code assumes one disk. A file appears whole or
not at all: `write` replaces atomically, `create` succeeds for exactly one of several writers.
"""

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 4096


@dataclass(frozen=True)
class Folder:
    """A folder by URI. Cheap to make and to pickle; touches nothing until asked.

    Attributes:
        uri: local path or any URL that fsspec knows (`s3://bucket/prefix`).
    """

    uri: str

    @cached_property
    def _resolved(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return fsspec.url_to_fs(self.uri)

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        return self._resolved[0]

    @property
    def is_local(self) -> bool:
        return "file" in _protocols(self.filesystem)

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.uri.rstrip('/')}/{name}")

    def path(self, name: str = "") -> str:
        """The path inside `filesystem` of the folder, or of the file `name` in it."""
        root = self._resolved[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def exists(self, name: str = "") -> bool:
        return self.filesystem.exists(self.path(name))

    def names(self, pattern: str = "*") -> list[str]:
        """Names of files and folders that match a glob, relative to the folder, sorted."""
        self.filesystem.invalidate_cache()
        root = self.path()
        return sorted(found[len(root) + 1 :] for found in self.filesystem.glob(f"{root}/{pattern}"))

    def files(self) -> dict[str, int]:
        """Every file below the folder, by relative name, with its size in bytes."""
        self.filesystem.invalidate_cache()
        root = self.path()
        found = self.filesystem.find(root, detail=True) if self.exists() else {}
        return {path[len(root) + 1 :]: int(info["size"]) for path, info in sorted(found.items())}

    def open(self, name: str, mode: str = "rb") -> IO[Any]:
        """Open a file; when writing, its parent folders are made."""
        if "r" not in mode:
            self._make_parent(name)
        return self.filesystem.open(self.path(name), mode)

    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises FileNotFoundError."""
        return self.filesystem.cat_file(self.path(name))

    def write(self, name: str, data: bytes) -> None:
        """Replace a file atomically: a reader sees the old bytes or the new ones."""
        if not self.is_local:
            self.filesystem.pipe_file(self.path(name), data)
            return
        with self._temporary(name, data) as temporary:
            os.replace(temporary, self.path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if it is absent (a conditional put). False: somebody else's file stands there."""
        if not self.is_local:
            try:
                self.filesystem.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        with self._temporary(name, data) as temporary:
            try:
                os.link(temporary, self.path(name))
            except FileExistsError:
                return False
            return True

    def delete(self, name: str = "") -> None:
        """Delete a file, or the folder with all that is in it; absent is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm(self.path(name), recursive=True)

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, or every Parquet file of a folder `name`, as one table."""
        return pq.read_table(self.path(name), columns=columns, filesystem=self.filesystem)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one Parquet file, in row groups that workers can share out."""
        with self.open(name, "wb") as sink:
            pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS)

    @contextlib.contextmanager
    def local(self) -> Iterator[Path]:
        """The folder as a local directory, for libraries that open only those: itself or a temporary copy."""
        if self.is_local:
            yield Path(self.path())
            return
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory) / "copy"
            self.filesystem.get(self.path(), str(target), recursive=True)
            yield target

    @contextlib.contextmanager
    def writable(self) -> Iterator[Path]:
        """A local directory to write the folder's contents into: itself, or one uploaded at the end."""
        if self.is_local:
            directory = Path(self.path())
            directory.mkdir(parents=True, exist_ok=True)
            yield directory
            return
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
            self.upload(temporary)

    def upload(self, directory: Path | str) -> None:
        """Copy the contents of a local directory into the folder."""
        if self.is_local:
            shutil.copytree(directory, self.path(), dirs_exist_ok=True)
        else:
            self.filesystem.put(f"{directory}/", self.path(), recursive=True)

    def _make_parent(self, name: str) -> None:
        self.filesystem.makedirs(self.path(name).rsplit("/", 1)[0], exist_ok=True)

    @contextlib.contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[str]:
        self._make_parent(name)
        temporary = f"{self.path(name)}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
