"""`embedloom schema`: what a recipe, a comparison or a profile may say, for editors and for people."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    what: Annotated[
        Literal["recipe", "comparison", "profile"], typer.Argument(help="Of which file.", show_default=True)
    ] = "recipe",
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="A page for people: docs/recipe.md and docs/profile.md are this."),
    ] = False,
) -> None:
    """Print the JSON Schema of a recipe, a comparison or a profile.

    An editor with a YAML language server completes and checks a file whose first line is
    `# yaml-language-server: $schema=FILE`. `embedloom init` writes both. With --markdown, the same as a page.
    """
    from workflows.profile import Profile
    from workflows.recipe.comparison import Comparison
    from workflows.recipe.schema import Recipe
    from workflows.reference import to_markdown

    models: dict[str, type[BaseModel]] = {"recipe": Recipe, "comparison": Comparison, "profile": Profile}
    if markdown:
        print(to_markdown(models[what], f"embedloom schema {what} --markdown"), end="")
    else:
        print(to_json_schema(models[what]))


def to_json_schema(model: "type[BaseModel]") -> str:
    """The schema as JSON text; descriptions are the docstrings of classes and fields."""
    return json.dumps({"$schema": DIALECT} | model.model_json_schema(), indent=1)
