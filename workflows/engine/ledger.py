"""What the cluster has, and what of it the running steps have taken."""

from collections.abc import Iterable

from workflows.engine.step import Budget, Step


class Ledger:
    """Admission by free resources. `refresh` before a round of questions: a cluster may grow and shrink.

    Args:
        largest: what the cluster may grow to, as the profile declares it.
    """

    def __init__(self, largest: Budget | None) -> None:
        self._largest = largest.amounts() if largest else {}
        self._asked: dict[str, float] = {}
        self.refresh()

    def refresh(self) -> None:
        import ray

        self._has: dict[str, float] = ray.cluster_resources()

    def check(self, steps: Iterable[Step]) -> None:
        """Raises ValueError for a step that neither fits the cluster nor what it may grow to."""
        for step in steps:
            for resource, wanted in step.budget.amounts().items():
                has, may = self._has.get(resource, 0.0), self._largest.get(resource, 0.0)
                if wanted > max(has, may):
                    grow = f" and may grow to {may:g}" if self._largest else ""
                    raise ValueError(
                        f"step `{step.name}` needs {wanted:g} {resource}, the cluster has {has:g}{grow}"
                    )

    def fits(self, step: Step, running: Iterable[Step]) -> bool:
        """Whether the budget of a step is free now."""
        taken = [other.budget.amounts() for other in running]
        return all(
            sum(amounts[resource] for amounts in taken) + wanted <= self._has.get(resource, 0.0)
            for resource, wanted in step.budget.amounts().items()
            if wanted > 0
        )

    def must_grow(self, step: Step) -> bool:
        """Whether a step cannot run on the whole cluster as it is. If so, an autoscaler is told what it
        takes.

        Ray sees no demand of its own: a step's task declares none, and it is not started before its budget is
        there.
        """
        wanted = {
            key: amount for key, amount in step.budget.amounts().items() if amount > self._has.get(key, 0.0)
        }
        if wanted and wanted != self._asked:
            from ray.autoscaler.sdk import request_resources

            gpus = [{"GPU": 1}] * int(wanted.get("GPU", 0))
            memory = [{"memory": int(wanted["memory"])}] if "memory" in wanted else []
            request_resources(num_cpus=int(wanted.get("CPU", 0)) or None, bundles=gpus + memory)
            self._asked = wanted
        return bool(wanted)
