"""What a student wrote does nothing in a teacher's browser: feedback, and formgrader's own pages.

Grading itself is stood in for, since it is the pages that are looked at; the texts are hostile.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sft_teach.grading import classroom, engine
from tests.grading.test_classroom import NAME, ROOT, Stand_in, answers, hand_in

playwright = pytest.importorskip("playwright.sync_api")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser found (looked for {', '.join(BROWSERS)})"
)

TAKE = "document.title = 'taken over'; window.taken = true"
HOSTILE = f"""The single mean.

<script>{TAKE}</script> <img src=x onerror="{TAKE}"> <svg onload="{TAKE}"></svg>
[a link](javascript:{TAKE.replace(" ", "%20")}) <a href="javascript:{TAKE}">another</a>

$$\\href{{javascript:{TAKE}}}{{x}}$$

~~~~
</code></pre><script>{TAKE}</script>
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A graded course in which ada's notebook is hostile wherever a student can write."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copyfile(ROOT / "nbgrader_config.py", folder / "nbgrader_config.py")
    shutil.copytree(ROOT / "solutions" / NAME, folder / "solutions" / NAME)
    notebook = nbformat.reads(answers("log_softmax", essay=HOSTILE, extra=HOSTILE).decode(), 4)
    html = {"text/html": f"<script>{TAKE}</script>", "text/plain": "x"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source += f"\n# </pre><script>{TAKE}</script>"
            cell.outputs = [nbformat.v4.new_output("display_data", html)]
    notebook.cells.append(nbformat.v4.new_raw_cell(HOSTILE))
    hand_in(folder, "ada", nbformat.writes(notebook).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "Grader", Stand_in)
        report = classroom.grade_class(NAME, folder)
    assert set(report.graded) == {"ada"}
    return folder


@pytest.fixture(scope="module")
def page():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 640})
        page.set_default_timeout(60_000)
        page.on("dialog", lambda dialog: dialog.dismiss())
        yield page
        browser.close()


def assert_harmless(page) -> None:
    """Nothing ran on loading, and there is nothing to click that would."""
    page.get_by_text("The single mean.").first.wait_for()
    page.wait_for_timeout(500)
    assert not page.evaluate("window.taken === true") and "taken" not in page.title()
    targets = page.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href') || '')")
    assert not [target for target in targets if target.strip().lower().startswith("javascript:")]
    handlers = page.eval_on_selector_all("[onerror], [onload]", "all => all.map(e => e.outerHTML)")
    assert not [handler for handler in handlers if "taken" in handler]
    assert "taken" in page.content(), "the hostile text is not there at all"


def picture(page, name: str) -> None:
    """With SFT_TEACH_SCREENSHOTS=docs the guide's pictures are made here."""
    if folder := os.environ.get("SFT_TEACH_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def test_a_feedback_page_is_safe_to_open(course, page):
    page.goto((course / "feedback" / "ada" / NAME / f"{NAME}.html").as_uri())
    assert_harmless(page)
    assert page.get_by_text("log_softmax: not written yet.").count() >= 1
    picture(page, "feedback")


@pytest.fixture(scope="module")
def formgrader(course, tmp_path_factory):
    """The address of a JupyterLab in the course's folder."""
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.port_retries=50", f"--ServerApp.root_dir={course}"]
    places = {"JUPYTER_RUNTIME_DIR": folder / "runtime", "JUPYTER_CONFIG_DIR": folder / "config"}
    environment = os.environ | {name: str(path) for name, path in places.items()}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=course, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(900):
            for path in (folder / "runtime").glob("jpserver-*.json"):
                if (text := path.read_text()).endswith("}"):
                    started = json.loads(text)
                    yield f"{started['url']}formgrader{{}}?token={started['token']}"
                    return
            assert server.poll() is None, (folder / "log.txt").read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError((folder / "log.txt").read_text()[-3000:])
    finally:
        server.terminate()
        server.wait(20)


def test_formgraders_pages_are_safe_to_open(course, page, formgrader):
    page.goto(formgrader.format(""))  # logs in
    page.get_by_role("link", name="Manual Grading").click()
    page.get_by_role("link", name=NAME).click()
    page.get_by_role("link", name=NAME).last.click()
    submission = page.get_by_role("link", name="Submission #1")
    submission.wait_for()
    picture(page, "formgrader")
    submission.click()
    page.wait_for_url("**/submissions/**")
    assert_harmless(page)
