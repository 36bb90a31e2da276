"""How `systems.compare_systems` names the folders that it reads: workflows write these names, and it reads them."""

EVALUATION, MODEL, STAGE, BATCHES = "evaluate", "model", "stage", "batches"


def keyword(what: str, system: str, name: str = "") -> str:
    """The name of an argument, which allows no dash.

    Args:
        what: one of the words above.
        name: of the set or the stage; "" is where the names of all of them begin.
    """
    return "__".join(part.replace("-", "_") for part in (what, system, name))
