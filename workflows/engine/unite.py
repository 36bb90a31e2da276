"""Several DAGs as one: what two of them have in common is one step."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from workflows.engine.fingerprint import fingerprints
from workflows.engine.step import Following, Step, Sub


def unite(dags: Mapping[str, Iterable[Step]]) -> dict[Step, Step]:
    """Make one DAG of several: steps of the same fingerprint become one.

    A step of one DAG alone is called `LABEL.NAME`; one that several have keeps its name, the first time that this
    name comes up.

    Args:
        dags: by a label each, the steps wanted.

    Returns:
        for every step of every DAG the one that stands for it.
    """
    prints = {label: fingerprints(steps) for label, steps in dags.items()}
    owners: dict[str, list[str]] = {}
    for label, of_dag in prints.items():
        for fingerprint in dict.fromkeys(of_dag.values()):
            owners.setdefault(fingerprint, []).append(label)
    united: dict[Step, Step] = {}
    standing: dict[str, Step] = {}
    taken: set[str] = set()
    for label, of_dag in prints.items():
        for step, fingerprint in of_dag.items():
            if fingerprint not in standing:
                shared = len(owners[fingerprint]) > 1 and step.name not in taken
                name = step.name if shared else f"{label}.{step.name}"
                taken.add(name)
                inputs = {key: _moved(source, united) for key, source in step.inputs.items()}
                standing[fingerprint] = replace(step, name=name, inputs=inputs)
            united[step] = standing[fingerprint]
    return united


def _moved(source: Step | Sub | Following, united: Mapping[Step, Step]) -> Step | Sub | Following:
    if isinstance(source, Step):
        return united[source]
    return replace(source, step=united[source.step])
