"""What a step says while it works: metrics, progress, figures.

Components write to a `Monitor` and know nothing of who listens. The workflow's monitor writes to MLflow and to
the terminal (`workflows/engine/tracking.py`); `Silent` is for a function that is called on its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Monitor(Protocol):
    """Picklable: a step may hand it to its workers."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers over time (`step` given) or of the step as a whole."""
        ...

    def params(self, values: Mapping[str, Any]) -> None:
        """Facts known only while running, written once (rows, device, digest)."""
        ...

    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None:
        """How far the work is; rate and time left are derived. `facts` (loss, tokens/s) are shown beside it."""
        ...

    def figure(self, name: str, figure: Any) -> None:
        """A matplotlib figure, kept as `name` (an image file name)."""
        ...

    def artifact(self, name: str, data: bytes) -> None:
        """A small file for people to look at: a table, a report page."""
        ...


@dataclass(frozen=True)
class Silent:
    """A monitor that nobody reads."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...
    def params(self, values: Mapping[str, Any]) -> None: ...
    def progress(self, done: float, total: float | None, unit: str, **facts: float) -> None: ...
    def figure(self, name: str, figure: Any) -> None: ...
    def artifact(self, name: str, data: bytes) -> None: ...
