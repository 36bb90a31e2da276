"""A submission in a process of its own: python submit.py ROOT TRACKING_DIRECTORY CALLS SECONDS

Two steps side by side and one that joins them, on a Ray cluster of its own. Prints the states, exits with the
code.
"""

import json
import shutil
import sys
import tempfile

from workflows.engine.runner import run
from workflows.engine.step import Step
from workflows.engine.store import Store
from workflows.engine.tracking import open_tracking


def steps(calls: str, seconds: float) -> list[Step]:
    execution = {"calls": calls, "seconds": seconds}
    left = Step("left", "engine_functions:write", config={"text": "left"}, execution=execution)
    right = Step("right", "engine_functions:write", config={"text": "right"}, execution=execution)
    parts = {"a": left, "b": right}
    return [Step("both", "engine_functions:join", inputs=parts, execution={"calls": calls})]


def main() -> int:
    root, tracking_directory, calls, seconds = sys.argv[1:]
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")

    def cluster() -> None:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=directory)

    try:
        tracking = open_tracking("submit", directory=tracking_directory)
        result = run(steps(calls, float(seconds)), Store(root), tracking, cluster, "submit", {})
    finally:
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        shutil.rmtree(directory, ignore_errors=True)
    states = {name: outcome.state for name, outcome in result.outcomes.items()}
    print(json.dumps({"states": states, "run_id": result.run_id, "message": result.message}), flush=True)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
