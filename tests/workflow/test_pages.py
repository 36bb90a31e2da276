"""What a person sees who opens the MLflow page of a run, in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import open_page
from playwright.sync_api import Page, expect
from workspace import STEPS, client, submissions

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as page:
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page


@pytest.fixture(scope="module")
def addresses(undisturbed) -> dict[str, str]:
    """Step -> page of its run, and that of the parent under "parent"."""
    workspace, _ = undisturbed
    api = client(workspace.folder / "results")
    parent, children = submissions(api)[0]
    runs = {"parent": parent} | {run.data.tags["step.name"]: run for run in children}
    start = f"{api.tracking_uri}/#/experiments/{parent.info.experiment_id}/runs"
    return {name: f"{start}/{run.info.run_id}" for name, run in runs.items()}


def keep(page: Page, folder: Path, name: str) -> None:
    """A picture to look at, in the folder that pytest keeps of its last runs."""
    page.screenshot(path=folder / f"{name}.png")


def test_the_page_of_a_run_shows_its_children_and_scores(page: Page, addresses, tmp_path):
    page.goto(addresses["parent"])
    expect(page.get_by_text("Finished", exact=True).first).to_be_visible()
    while page.get_by_role("button", name="Load more").is_visible():
        page.get_by_role("button", name="Load more").click()
        page.wait_for_timeout(500)
    for step in STEPS:
        expect(page.get_by_role("link", name=step, exact=True).first).to_be_visible()
    expect(page.get_by_text("ndcg_at_10/evaluate-merged")).to_be_attached()
    keep(page, tmp_path, "parent")


def test_the_picture_of_the_dag_is_there(page: Page, addresses, tmp_path):
    page.goto(f"{addresses['parent']}/artifacts/dag.png")
    picture = page.locator("img[src^='blob:'], img[src*='dag.png'], img[src^='data:image']").last
    expect(picture).to_be_visible()
    page.wait_for_function("image => image.naturalWidth > 400", arg=picture.element_handle())
    keep(page, tmp_path, "dag")


def test_a_training_step_has_its_curves(page: Page, addresses, tmp_path):
    page.goto(f"{addresses['weak']}/model-metrics")
    curves = page.locator(".js-plotly-plot .scatterlayer .trace")
    expect(curves.first).to_be_visible()
    expect(page.get_by_text("loss", exact=True).first).to_be_attached()
    keep(page, tmp_path, "curves")


def test_the_report_opens_in_mlflow(page: Page, addresses, tmp_path):
    page.goto(f"{addresses['report']}/artifacts/report.html")
    report = page.frame_locator("iframe").last
    expect(report.get_by_text("held-out queries").first).to_be_visible()
    expect(report.get_by_text("merged").first).to_be_visible()
    keep(page, tmp_path, "report")
