"""A learner's first minutes: JupyterLab in a real browser, run all, move a slider by keyboard."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser found (looked for {', '.join(BROWSERS)})"
)
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
# Every cell in the page's text, scrolled to or not; and no questions at the start.
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
RUN_SECONDS = 300
PROMPTS = ".jp-CodeCell .jp-InputArea-prompt"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Addresses in a JupyterLab with settings of its own, on copies of the notebooks.

    The folder `stored` has them as they are committed, `blank` without outputs and numbers.
    """
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS.glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for kind in ("stored", "blank"):
            target = folder / "notebooks" / kind / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, target)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.update(outputs=[], execution_count=None)
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    places = {
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.port_retries=50", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with (folder / "log.txt").open("w") as log:
        environment = os.environ | {name: str(path) for name, path in places.items()}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url, token = _address(folder, server)

        def address(name: str) -> str:
            """Where to open a notebook, in a workspace of its own: no tabs of another test."""
            workspace = re.sub(r"\W", "", name)
            return f"{url}lab/workspaces/{workspace}/tree/{name}?token={token}"

        yield address
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _address(folder: Path, server: subprocess.Popen) -> tuple[str, str]:
    for _ in range(600):
        for path in (folder / "runtime").glob("jpserver-*.json"):
            text = path.read_text()
            if text.endswith("}"):
                started = json.loads(text)
                return started["url"], started["token"]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{(folder / 'log.txt').read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        # A container's root has no user namespace to sandbox pages in; they are our own.
        yield started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def run_all(page, lab, name: str) -> None:
    """Open a notebook, choose Run > Run All Cells, and wait until every cell has a number."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    count = sum(cell.cell_type == "code" and bool(cell.source) for cell in notebook.cells)
    page.goto(lab(f"blank/{name}"))
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    # The notebook's own indicator says idle before there is a kernel at all.
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    finished = (
        f"() => [...document.querySelectorAll('{PROMPTS}')]"
        f".filter(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())).length == {count}"
        " || document.querySelector('[data-mime-type=\"application/vnd.jupyter.error\"]')"
    )
    page.wait_for_function(finished, timeout=RUN_SECONDS * 1000)


def check_outputs(page) -> None:
    """No error, nothing on stderr, and a text for every image."""
    for kind in ("error", "stderr"):
        found = page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']")
        assert found.count() == 0, found.first.inner_text()
    broken = page.get_by_text("Error displaying widget")
    assert broken.count() == 0
    images = page.locator(".jp-OutputArea img").evaluate_all(
        "images => images.map(i => [i.alt, i.complete && i.naturalWidth > 0])"
    )
    assert images, "a notebook without a figure?"
    assert all(alt.strip() for alt, _ in images), images
    assert all(loaded for _, loaded in images), "an image does not show"


def explorers(page):
    """The widget boxes that hold a drawing."""
    return page.locator(".jp-OutputArea .widget-vbox:has(.widget-html-content figure)")


def drawing(explorer) -> tuple[str, str, str]:
    """What an explorer shows: its text, its images' alternative texts, the images themselves."""
    return tuple(
        explorer.evaluate(
            """explorer => {
                const images = [...explorer.querySelectorAll(".widget-html-content img")];
                const texts = [...explorer.querySelectorAll(".widget-html-content")];
                return [texts.map(t => t.innerText), images.map(i => i.alt), images.map(i => i.src)]
                    .map(parts => parts.join("\\n"));
            }"""
        )
    )


def wait_for_change(explorer, before: tuple, seconds: float = 60) -> tuple[str, str, str]:
    """The explorer's next drawing, when it has caught up: the same for a second."""
    end, last = time.monotonic() + seconds, before
    while time.monotonic() < end:
        time.sleep(1)
        now = drawing(explorer)
        if now == last and now != before and now[2]:
            return now
        last = now
    raise AssertionError("the explorer did not change")


def test_before_it_runs_an_explorer_reads_as_text(page, lab):
    page.goto(lab("stored/03_cross_entropy.ipynb"))
    page.get_by_text("Interactive: run this cell").first.wait_for()
    assert page.get_by_text("Error displaying widget").count() == 0


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_stored_figure_shows_and_has_an_alternative_text(page, lab, path):
    cells = nbformat.read(path, as_version=4).cells
    html = "".join(
        output.get("data", {}).get("text/html", "")
        for cell in cells
        for output in cell.get("outputs", [])
    )
    page.goto(lab(f"stored/{path.name}"))
    page.wait_for_function(
        f"""() => {{
            const images = [...document.querySelectorAll(".jp-OutputArea img")];
            return images.length >= {html.count("<img")} && images.every(i => i.complete);
        }}"""
    )
    check_outputs(page)


def test_cross_entropy_runs_and_its_slider_moves_by_keyboard(page, lab):
    run_all(page, lab, "03_cross_entropy.ipynb")
    check_outputs(page)
    explorer = explorers(page).first
    explorer.scroll_into_view_if_needed()
    before = drawing(explorer)
    slider = explorer.get_by_role("slider").first
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    text, alternative, picture = wait_for_change(explorer, before)
    assert text != before[0] and alternative != before[1] and picture != before[2]
    logits = [float(t) for t in explorer.locator(".widget-readout").all_inner_texts()[:3]]
    assert logits[0] == 0.5, "five steps of 0.1"
    whole = sum(map(math.exp, logits))
    softmax = ", ".join(f"{math.exp(logit) / whole:.3f}" for logit in logits)
    assert f"softmax(logits) = ({softmax})" in text
    if screenshot := os.environ.get("SFT_TEACH_SCREENSHOT"):  # README's picture
        page.screenshot(path=screenshot)


def test_welcome_runs_and_classifies_what_is_typed(page, lab):
    run_all(page, lab, "00_welcome.ipynb")
    check_outputs(page)
    explorer = page.locator(".jp-OutputArea .widget-vbox:has(textarea)").first
    explorer.scroll_into_view_if_needed()
    before = drawing(explorer)
    explorer.locator("textarea").fill("What a dull, endless mess. I want my evening back.")
    button = explorer.get_by_role("button", name="Classify")
    button.focus()
    page.keyboard.press("Enter")
    text, alternative, picture = wait_for_change(explorer, before)
    assert "dull" in text or "dull" in alternative
    assert alternative != before[1] and picture != before[2]
