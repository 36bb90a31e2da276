"""What a comparison file may say: several systems, judged on the same sets.

A system is what a recipe makes, or a model that is there. Everything in it changes the result, as in a recipe.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from workflows.recipe.evaluations import OnSet
from workflows.recipe.schema import STEP_NAME, Encoding
from workflows.recipe.section import Count, ModelName, Section, below_the_file

HELD_OUT = "held-out"
"""The set of queries that the recipes hold out."""
_AVERAGE = "average"
Name = Annotated[str, Field(pattern=STEP_NAME)]


def _recipe(name: str, info: ValidationInfo) -> str:
    """One that comes with the project is no path."""
    return below_the_file(name, info) if name.endswith((".yaml", ".yml")) else name


class System(Section):
    """One system: a recipe and what is changed in it, or a model and how it encodes."""

    recipe: Annotated[str, AfterValidator(_recipe)] | None = None
    """A recipe file (relative to this one), or the name of one that comes with the project."""
    set: dict[str, Any] = {}
    """Fields of the recipe with other values: `{steps.weak.epochs: 2}`."""
    without: list[str] = []
    """Steps that are taken out of the recipe, and out of what others `add`."""
    model: ModelName | None = None
    """Hub id, directory, models:/name/version, or package://name."""
    layers: Count | None = None
    """Keep only the first so many layers of the model."""
    encoding: Encoding = Encoding()
    """Of the model, in place of what it says itself."""

    @model_validator(mode="after")
    def _one_of_the_two(self) -> "System":
        if (self.recipe is None) == (self.model is None):
            raise ValueError("give either recipe or model, not both and not neither")
        of_the_other = ("layers", "encoding") if self.recipe else ("set", "without")
        for name in of_the_other:
            if name in self.model_fields_set:
                raise ValueError(
                    f"{name} is for a system with a {'model' if self.recipe else 'recipe'}; take it out"
                )
        return self


class Comparison(Section):
    """Several systems, made and judged in one run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    """Of the workflow."""
    description: str = ""
    """One sentence for the run in MLflow."""
    set: dict[str, Any] = {}
    """Fields of every recipe with other values. A path that begins with ./ is relative to this file."""
    systems: Annotated[dict[Name, System], Field(min_length=2)]
    """By the name that they are shown by, in this order."""
    baseline: str | None = None
    """The system that the others are tested against; null: the first."""
    evaluations: dict[Name, OnSet] = {}
    """Sets that all systems are judged on, beside the held-out queries that their recipes have in common."""

    @model_validator(mode="after")
    def _names_its_sets(self) -> "Comparison":
        for name in (HELD_OUT, _AVERAGE):
            if name in self.evaluations:
                raise ValueError(f"no set of `evaluations` can be called {name}, which the table has already")
        return self

    @model_validator(mode="after")
    def _knows_its_baseline(self) -> "Comparison":
        if self.baseline is not None and self.baseline not in self.systems:
            raise ValueError(f"baseline is {self.baseline!r}; it is one of {', '.join(self.systems)}")
        return self
