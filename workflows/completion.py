"""What the shell completes."""

from collections.abc import Iterator
from pathlib import Path

SHIPPED = Path(__file__).with_name("recipes")
"""Looked at here, for `recipe.load` imports what a key press would wait for."""


def recipes(incomplete: str) -> Iterator[str]:
    """Recipes that come with the project, and recipe files."""
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    return (name for name in (*names, *_files(incomplete)) if name.startswith(incomplete))


def profiles(incomplete: str) -> Iterator[str]:
    """Profiles by name, and files of others."""
    from workflows.profile import PROFILES

    return (name for name in (*PROFILES, *_files(incomplete)) if name.startswith(incomplete))


def _files(incomplete: str) -> list[str]:
    """YAML files and folders where the name that is being written would lie."""
    folder, slash, _ = incomplete.rpartition("/")
    return sorted(
        f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
        for path in Path(f"{folder}{slash}" or ".").glob("*")
        if not path.name.startswith(".") and (path.is_dir() or path.suffix in {".yaml", ".yml"})
    )
