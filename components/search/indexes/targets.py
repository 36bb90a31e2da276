"""What vectors can be written to, a module each.

Each has two functions: `check` says before anything is computed why it would not work, `write` is called once all
vectors are there. A write that was interrupted is begun again and comes to the same.
"""

from typing import Any, Literal, Protocol

from components.monitor import Monitor
from components.search.coded import Coded, Form
from components.search.indexes import faiss_index, lance, parquet, qdrant
from components.search.indexes.place import Place
from components.storage import Folder

Target = Literal["parquet", "faiss", "lancedb", "qdrant"]


class Index(Protocol):
    """What each module is."""

    def check(self, form: Form, place: Place, output: Folder) -> None: ...
    def write(
        self, coded: Coded, facts: dict[str, Any], place: Place, output: Folder, monitor: Monitor
    ) -> None: ...


INDEXES: dict[Target, Index] = {
    "parquet": parquet,
    "faiss": faiss_index,
    "lancedb": lance,
    "qdrant": qdrant,
}
