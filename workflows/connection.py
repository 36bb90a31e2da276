"""How a submission comes to a Ray cluster: the one it is told of, or one of its own on this machine."""

import logging
import os
from pathlib import Path


def connect(address: str | None) -> str | None:
    """Connect to a cluster, or start one on this machine that ends with this process. A process that is connected
    already stays where it is.

    Args:
        address: of a running cluster (`ray://...` or host:port); None: this machine.

    Returns:
        URL of Ray's dashboard, if it has one.
    """
    # Workers import this project as the driver does, installed or not, and are not started through uv.
    root = str(Path(__file__).parents[1])
    there = os.environ.get("PYTHONPATH", "")
    if root not in there.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, there)))
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return None
    if address:
        context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        context = ray.init(
            num_cpus=os.cpu_count(),
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    return f"http://{context.dashboard_url}" if context.dashboard_url else None
