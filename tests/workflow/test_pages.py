"""What a person sees who opens the MLflow page of a run, in a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import open_page
from playwright.sync_api import Page, expect
from workspace import STEPS, client, submissions

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_page() as page:
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page


@pytest.fixture(scope="module")
def addresses(undisturbed) -> dict[str, str]:
    """Step -> page of its run with a place for the `tab`, and that of the parent under "parent"."""
    workspace, _ = undisturbed
    api = client(workspace.folder / "results")
    parent, children = submissions(api)[0]
    runs = {"parent": parent} | {run.data.tags["step.name"]: run for run in children}
    start = f"{api.tracking_uri}/#/experiments/{parent.info.experiment_id}/runs"
    pages = "{tab}?workflowType=machine_learning"  # as the address that a run prints at its end
    return {name: f"{start}/{run.info.run_id}{pages}" for name, run in runs.items()}


def keep(page: Page, folder: Path, name: str) -> None:
    """A picture to look at, in the folder that pytest keeps of its last runs."""
    page.screenshot(path=folder / f"{name}.png")


def test_the_page_of_a_run_shows_its_children_and_scores(page: Page, addresses, tmp_path):
    page.goto(addresses["parent"].format(tab=""))
    expect(page.get_by_text("Finished", exact=True).first).to_be_visible()
    for _ in range(len(STEPS) // 10):  # ten are shown at first
        page.get_by_role("button", name="Load more").click()
    for step in STEPS:
        expect(page.get_by_role("link", name=step, exact=True).first).to_be_visible()
    expect(page.get_by_text("ndcg_at_10/evaluate-merged")).to_be_attached()
    keep(page, tmp_path, "parent")


def test_the_picture_of_the_dag_is_there(page: Page, addresses, tmp_path):
    page.goto(addresses["parent"].format(tab="/artifacts/dag.png"))
    picture = page.get_by_alt_text("dag.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 400
    keep(page, tmp_path, "dag")


def test_a_training_step_has_its_curves(page: Page, addresses, tmp_path):
    page.goto(addresses["weak"].format(tab="/model-metrics"))
    expect(page.get_by_text("gradient_norm", exact=True)).to_be_visible()
    expect(page.locator(".js-plotly-plot .scatterlayer .trace").first).to_be_attached()
    keep(page, tmp_path, "curves")


@pytest.mark.parametrize("width", [1280, 420])
def test_the_report_fits_a_desk_and_a_phone(page: Page, undisturbed, tmp_path, width):
    """Wide tables scroll in themselves; the page does not. Every plot is drawn."""
    workspace, _ = undisturbed
    (report,) = (workspace.folder / "results" / "write_report").glob("*/attempt-*/report.html")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    page.screenshot(path=tmp_path / f"report-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.locator("figure img").evaluate_all("images => images.map(each => each.naturalWidth)")
    assert len(drawn) > 3
    assert min(drawn) > 300
    page.set_viewport_size({"width": 1400, "height": 1400})


def test_the_report_opens_in_mlflow(page: Page, addresses, tmp_path):
    page.goto(addresses["report"].format(tab="/artifacts/report.html"))
    report = page.frame_locator("iframe").last
    expect(report.get_by_text("held-out queries").first).to_be_visible()
    expect(report.get_by_text("merged").first).to_be_visible()
    keep(page, tmp_path, "report")
