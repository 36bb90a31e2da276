"""Ray Data as every step uses it: without bars of its own, and with the errors of our functions in their own words."""

from contextlib import AbstractContextManager
from typing import Any


def data_context(wait_for_workers_s: int | None = None) -> AbstractContextManager[Any]:
    """For a `with` block around a dataset. Ray's data context is global to the process; outside it stays as it was.

    Args:
        wait_for_workers_s: seconds until actors that do not start are given up; None: Ray's default.
    """
    from ray.data import DataContext  # `plan` looks at the rooms that use this and loads nothing heavy

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Otherwise an error comes wrapped, and what it was caused by is lost on its way between processes.
    context.raise_original_map_exception = True
    if wait_for_workers_s is not None:
        context.wait_for_min_actors_s = wait_for_workers_s
    return DataContext.current(context)
