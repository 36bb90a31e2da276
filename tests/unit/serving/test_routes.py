import pytest

from components.serving.routes import Route, Routes, Shadow

ROUTES = Routes().with_route(
    Route("docs", "embedding", "2", {"1": "docs-1", "2": "docs-2"}, Shadow("1", 0.1))
)


@pytest.mark.parametrize(
    ("model", "kind", "version"),
    [
        ("docs", "embedding", "2"),
        ("docs/1", "embedding", "1"),
        ("docs/2", "embedding", "2"),
        (None, "embedding", "2"),
        ("docs", "reranker", None),
        ("docs/1", "reranker", None),
        (None, "reranker", None),
        ("docs/3", "embedding", None),
        ("other", "embedding", None),
        ("/", "embedding", None),
    ],
)
def test_names_and_what_they_mean(model, kind, version):
    found = ROUTES.find(model, kind)
    assert (found[1] if found else None) == version


def test_no_name_means_the_only_model():
    two = ROUTES.with_route(Route("other", "embedding", "1", {"1": "other-1"}))
    assert two.find(None, "embedding") is None


def test_they_pass_through_serves_config():
    assert Routes.from_config(ROUTES.to_config()) == ROUTES
