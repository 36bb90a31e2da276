"""What all parts of a recipe have in common."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
)

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that is not written down here."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def below_the_file(name: str, info: ValidationInfo) -> str:
    folder = (info.context or {}).get("folder")
    if folder is None or "://" in name or Path(name).is_absolute():
        return name
    return str((folder / name).resolve())


def _below_the_file_if_there(name: str, info: ValidationInfo) -> str:
    """A hub id is no path."""
    folder = (info.context or {}).get("folder")
    return below_the_file(name, info) if folder is not None and (folder / name).exists() else name


def _model_of_a_step(name: str, info: ValidationInfo) -> str:
    """A name without a slash is an earlier step's."""
    return _below_the_file_if_there(name, info) if "/" in name else name


def _without_folders(name: str, info: SerializationInfo) -> str:
    """Of a recipe that is shown to others, no path of this machine: see `Recipe.shown`."""
    return Path(name).name if (info.context or {}).get("shown") and Path(name).is_absolute() else name


FilePath = Annotated[str, AfterValidator(below_the_file), PlainSerializer(_without_folders)]
"""A path or URI; a path is relative to the recipe file."""
ModelName = Annotated[str, AfterValidator(_below_the_file_if_there), PlainSerializer(_without_folders)]
"""Hub id, directory (relative to the recipe file), models:/name/version, or package://name."""
StepOrModel = Annotated[str, AfterValidator(_model_of_a_step), PlainSerializer(_without_folders)]
"""An earlier step, or a model from outside."""
