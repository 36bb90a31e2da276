"""The docstring reader, against what `inspect` says of the imported objects."""

import inspect
import json
import os
import sys

import numpy as np
import pytest

from components.corpus import docstrings


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def lib(tmp_path, monkeypatch):
    """A library that raises when it is imported, so that reading it shows that nothing is."""
    write(
        tmp_path,
        {
            "quietlib/__init__.py": "from ._core import shown\nfrom .inner import *\nraise RuntimeError\n",
            "quietlib/_core.py": 'def shown():\n    """Shown."""\n\ndef hidden():\n    """Hidden."""\n',
            "quietlib/inner/__init__.py": "if TYPE_CHECKING:\n    from ._deep import *\n",
            "quietlib/inner/_deep.py": (
                '__all__ = ["Deep"]\n'
                'class Deep:\n    """A class."""\n'
                '    def run(self):\n        """A method."""\n'
                '    def _own(self):\n        """Private."""\n'
                'class Unlisted:\n    """Not in __all__."""\n'
            ),
            "quietlib/plain.py": 'def here():\n    """Public where it stands."""\n',
            "quietlib/broken.py": "def (:\n",
            "quietlib/tests/test_it.py": 'def test_it():\n    """A test."""\n',
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "quietlib"


def test_public_names_follow_reexports_and_nothing_is_imported(lib):
    found = {item.name: item.kind for item in docstrings.read_docstrings(lib)}
    assert found == {
        "quietlib.Deep": "class",
        "quietlib.Deep.run": "method",
        "quietlib.plain.here": "function",
        "quietlib.shown": "function",
    }
    assert lib not in sys.modules


def test_names_and_texts_of_numpy_agree_with_inspect():
    found = {item.name: item.text for item in docstrings.read_docstrings("numpy")}
    for name in (
        "linalg.svd",
        "reshape",
        "mean",
        "fft.rfft",
        "histogram",
        "ma.median",
        "polynomial.polynomial.polyval",
    ):
        target = np
        for part in name.split("."):
            target = getattr(target, part)
        assert found[f"numpy.{name}"] == inspect.cleandoc(target.__doc__)

    # All of numpy.linalg is written in Python; two docstrings are assigned while it is imported.
    functions = {f"numpy.linalg.{name}" for name in np.linalg.__all__ if callable(getattr(np.linalg, name))}
    assert functions - found.keys() == {"numpy.linalg.tensordot", "numpy.linalg.matrix_transpose"}


def test_json_agrees_with_inspect():
    found = {item.name: item.text for item in docstrings.read_docstrings("json")}
    assert {"json.dumps", "json.JSONEncoder", "json.JSONEncoder.iterencode"} <= found.keys()
    for name in ("dump", "dumps", "load", "loads", "JSONDecodeError"):
        assert found[f"json.{name}"] == inspect.getdoc(getattr(json, name))


def test_svd_is_cut_at_its_summary():
    labelled = docstrings.label(inspect.cleandoc(np.linalg.svd.__doc__))
    assert labelled.summary == "Singular Value Decomposition."
    assert labelled.body.startswith("When `a` is a 2D array")
    assert labelled.body.endswith(inspect.cleandoc(np.linalg.svd.__doc__).rstrip()[-200:])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fold the paper\nin two halves.\n\nBody of it.", ("Fold the paper in two halves.", "Body of it.")),
        (
            "fold(paper, n=2) -> Paper\n\nFold the given paper often.\n\n    Indented body.",
            ("Fold the given paper often.", "fold(paper, n=2) -> Paper\n\n    Indented body."),
        ),
        (
            "See :class:`~a.b.Cord` and ``knot`` for more.\n\nBody.",
            ("See a.b.Cord and knot for more.", "Body."),
        ),
        ("Only a summary line here.", "no_body"),
        ("Too short.\n\nBody.", "summary_too_short"),
        ("word " * 31 + "\n\nBody.", "summary_too_long"),
        ("Fold the paper twice.\n\n%(extra)s", "template"),
        ("Fold the paper twice.\n\nA body.\n\n{see_also}\n", "template"),
        ("Fold the {klass} twice over.\n\nBody.", "template"),
        ("Args:\n    paper (str): what is folded here.\n\nBody.", "no_summary"),
        ("Fold the paper twice.\n\nTo fold: Fold the\npaper twice.", "summary_in_body"),
    ],
)
def test_label(text, expected):
    labelled = docstrings.label(text)
    assert (labelled if isinstance(labelled, str) else (labelled.summary, labelled.body)) == expected


def test_digest_of_an_undistributed_library_follows_its_source(lib, tmp_path):
    before = docstrings.library_digest(lib)
    assert docstrings.library_digest(lib) == before
    with open(tmp_path / lib / "plain.py", "a") as file:
        file.write("# changed\n")
    assert docstrings.library_digest(lib) != before


@pytest.mark.parametrize(
    ("source", "word"),
    [("docstrings://", "no library"), ("docstrings://a.b", "top-level"), ("docstrings://a-b", "top-level")],
)
def test_a_source_that_names_no_library(source, word):
    with pytest.raises(ValueError, match=word):
        docstrings.libraries(source)


def test_a_library_that_cannot_be_read():
    with pytest.raises(ValueError, match="installed"):
        docstrings.locate("no_such_library_here")
    with pytest.raises(ValueError, match="no Python source"):
        docstrings.locate("sys")
    assert os.path.isdir(docstrings.locate("json"))
