"""One undisturbed run, which several tests look at."""

import pytest
from workspace import write_workspace


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A workspace whose workflow ran to its end, and what it printed."""
    workspace = write_workspace(tmp_path_factory.mktemp("undisturbed"))
    done = workspace.run()
    assert done.returncode == 0, done.stderr
    yield workspace, done
    workspace.end()
