"""What the steps of a plan that write text will ask for, before anything is paid."""

from collections.abc import Collection

from components.synthesis.estimate import Estimate, estimate
from components.synthesis.prompts import load_prompts
from workflows.profile import Profile
from workflows.recipe.load import Compared
from workflows.recipe.schema import Recipe
from workflows.recipe.steps import Synthesise, SynthesiseAtEndpoint


def synthesis_estimates(recipe: Recipe, profile: Profile, names: Collection[str]) -> dict[str, Estimate]:
    """Estimates of those steps that are named, as if every document were as long as the writer is shown at most.

    Raises:
        ValueError: a prompt file that cannot be used.
    """
    found = {}
    for name, asked in recipe.steps.items():
        if name not in names or not isinstance(asked, Synthesise | SynthesiseAtEndpoint):
            continue
        endpoint = profile.endpoint if isinstance(asked, SynthesiseAtEndpoint) else None
        limits = (
            endpoint.model_dump(include={"input_price", "output_price", "requests_per_minute"})
            if endpoint
            else {}
        )
        found[name] = estimate(
            recipe.split.synthesis_documents,
            asked.draws,
            load_prompts(asked.prompts),
            passage_characters=asked.passage_characters,
            max_tokens=asked.max_tokens,
            **limits,
        )
    return found


def comparison_estimates(compared: Compared, profile: Profile, names: Collection[str]) -> dict[str, Estimate]:
    """Those of a comparison's systems, by the names that `unite` gives to steps; what they share stands once.

    Raises:
        ValueError: as `synthesis_estimates`.
    """
    found = {}
    for label, recipe in compared.recipes.items():
        for name, estimated in synthesis_estimates(recipe, profile, recipe.steps).items():
            for given in (f"{label}.{name}", name):
                if given in names:
                    found[given] = estimated
                    break
    return found


def describe(found: Estimate) -> str:
    """In one sentence."""
    said = (
        f"at most {found.calls:,} calls, some {found.input_tokens:,} tokens in and {found.output_tokens:,} out "
        f"(at most {found.most_output_tokens:,})"
    )
    if found.cost is not None:
        said += (
            f", which costs {found.cost:,.2f} (at most {found.most_cost:,.2f}) in the currency of the prices"
        )
    if found.seconds is not None:
        said += f"; the rate limit alone takes {found.seconds / 60:,.0f} min"
    return said
