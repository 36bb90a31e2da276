"""What the tests share: one Ray cluster and one MLflow server a session, apart from those of the user."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# Before Ray is imported: its workers inherit them.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["EMBEDLOOM_TEST_KEY"] = (
    "a-key-that-nobody-may-see"  # of a fake endpoint: on every node, as a real one is
)
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, (str(ROOT), str(ROOT / "tests" / "engine"), os.environ.get("PYTHONPATH")))
)

# How long an example takes is no matter of tests.
settings.register_profile("embedloom", deadline=None)
settings.load_profile("embedloom")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on two CPUs."""
    import ray

    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: it holds sockets
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=directory,
        # Idle workers stay for the next test: a new one imports for seconds.
        _system_config={"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 60_000},
    )
    yield
    ray.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def tracking_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a running MLflow server over SQLite."""
    from workflows.engine import server

    directory = tmp_path_factory.mktemp("tracking")
    server.start(directory).wait()
    yield directory
    server.stop(directory)


@pytest.fixture(scope="session")
def tracking_uri(tracking_directory: Path) -> str:
    from workflows.engine import server

    running = server.find(tracking_directory)
    assert running is not None
    return running.uri
