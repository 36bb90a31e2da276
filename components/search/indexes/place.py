"""Where an index is, beside the folder that says what is in it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A table of a database.

    Attributes:
        at: path or URI of the database; None: it lies in the output folder.
        table: its name.
    """

    at: str | None = None
    table: str = "documents"

    def refuse(self, target: str) -> None:
        """Raises ValueError where a place is given to a target that is files of the output folder."""
        if self != Place():
            raise ValueError(
                f"--at and --table are of databases; --to {target} writes files into the output folder"
            )
