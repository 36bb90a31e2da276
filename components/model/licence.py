"""Under which licence something was published, as it says itself. Nothing is looked up by anyone's word but its own."""

from importlib import metadata
from pathlib import Path

_LONGEST = 60  # of a licence's name; some packages put the whole text where the name belongs


def stated_licence(name: str) -> str | None:
    """What a model, a package or a data set says of its licence; None where it says nothing.

    Args:
        name: package://package, docstrings://package,package, a directory with a model card, or hub id, `@revision`
            behind it or not.
    """
    scheme, _, rest = name.partition("://")
    if scheme in ("package", "docstrings") and rest:
        stated = {package: _of_package(package) for package in rest.split(",")}
        if len(stated) == 1:
            return next(iter(stated.values()))
        told = [f"{package}: {licence or 'not stated'}" for package, licence in stated.items()]
        return "; ".join(told) if any(stated.values()) else None
    path = Path(name).expanduser()
    if path.exists():
        card = path / "README.md"
        return _of_card(str(card)) if card.is_file() else None
    return None if rest else _of_card(name.partition("@")[0])


def _of_package(package: str) -> str | None:
    distributions = metadata.packages_distributions().get(package, [package])
    try:
        told = metadata.metadata(distributions[0])
    except metadata.PackageNotFoundError:
        return None
    if expression := told.get_all("License-Expression"):
        return expression[0]
    licence = next(iter(told.get_all("License") or []), "").strip()
    if licence and len(licence) <= _LONGEST and "\n" not in licence:
        return licence
    named = [
        line for line in told.get_all("Classifier") or [] if line.startswith("License :: OSI Approved ::")
    ]
    return ", ".join(line.rpartition(" :: ")[2] for line in named) or None


def _of_card(place: str) -> str | None:
    from huggingface_hub import ModelCard

    from components.model.hub_errors import HUB_ERRORS

    try:
        data = ModelCard.load(place).data
    except (*HUB_ERRORS, ValueError):  # no card, none that can be read, no name of a repository, no network
        return None
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(licence) if licence else None
