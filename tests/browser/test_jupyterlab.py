"""The first lesson in JupyterLab, as a learner opens it; the notebooks are a copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, gone, within

from redis_lab import claims

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# Every cell in the page, in view or not
SETTINGS = {"@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"}}

RUN_ALL = "() => window.jupyterapp.commands.execute('notebook:run-all-cells')"
NOTEBOOK = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON()"
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.sessionContext?.session?.kernel?.status === 'idle' && panel.content.model;
}"""


@pytest.fixture
def jupyterlab(tmp_path):
    """A JupyterLab over a copy of the notebooks; `address("notebooks/x.ipynb")` opens one in it."""
    shutil.copytree(
        ROOT / "notebooks",
        tmp_path / "notebooks",
        ignore=shutil.ignore_patterns(".ipynb_checkpoints"),
    )
    for name, values in SETTINGS.items():
        file = tmp_path / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    ours = {name: str(tmp_path / folder) for name, folder in folders.items()}
    ours[claims.FILE] = str(tmp_path / "claims")  # what a busy machine spoils is no error then
    if "REDIS_LAB_SERVER" in os.environ:
        ours["REDIS_LAB_SERVER"] = os.environ["REDIS_LAB_SERVER"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={tmp_path}", "--LabApp.expose_app_in_browser=True"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        command, env=environment(**ours), cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT
    )
    runtime = tmp_path / "runtime"
    try:
        assert within(
            120, lambda: process.poll() is not None or any(runtime.glob("jpserver-*.json"))
        )
        assert process.poll() is None, (tmp_path / "log").read_text()
        [about] = runtime.glob("jpserver-*.json")
        assert within(60, lambda: about.read_text().strip().endswith("}"))
        server = json.loads(about.read_text())
        yield lambda name: f"{server['url']}lab/tree/{name}?token={server['token']}"
    finally:
        process.terminate()
        assert within(60, lambda: process.poll() is not None or gone(process.pid))
        log.close()


def test_what_is_committed_as_a_reader_sees_it(jupyterlab, open_page, look):
    """Figures have their alternative texts in the page; solutions are folded, and tell nothing."""
    page = open_page()
    page.set_default_timeout(240_000)
    page.goto(jupyterlab("notebooks/patterns/13_cache_aside.ipynb"))
    page.wait_for_function(READY)
    outputs = [
        output
        for cell in page.evaluate(NOTEBOOK)["cells"]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
        and not any("vegalite" in kind for kind in output["data"])  # drawn by JupyterLab
    ]
    figures = page.locator(".jp-OutputArea-output img")
    figures.first.wait_for()
    shown = figures.evaluate_all("all => all.map(img => img.alt)")
    assert shown == [output["metadata"]["image/png"]["alt"] for output in outputs]
    assert len(shown) == 2 and "SQLite alone rises from" in shown[0]
    figures.first.scroll_into_view_if_needed()
    look(page, "jupyterlab-figure")
    folded = page.locator(".jp-CodeCell", has=page.locator(".jp-InputPlaceholder"))
    assert folded.count() == 2
    for text in folded.all_inner_texts():
        assert text.split() == ["#", "One", "solution"], text
    folded.last.scroll_into_view_if_needed()
    look(page, "jupyterlab-folded")


def test_start_here_runs_from_top_to_bottom(jupyterlab, open_page, look):
    page = open_page()
    page.set_default_timeout(240_000)
    page.goto(jupyterlab("notebooks/00_start_here.ipynb"))
    page.wait_for_function(READY)
    look(page, "jupyterlab-opened")
    page.evaluate(RUN_ALL)
    cells = page.evaluate(NOTEBOOK)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert figures and all(each["metadata"]["image/png"]["alt"] for each in figures)
    figure = page.locator(".jp-OutputArea-output img").first
    figure.scroll_into_view_if_needed()
    assert figure.evaluate("img => img.complete && img.naturalWidth > 300")
    assert "From fast to slow: " in figure.evaluate("img => img.alt")
    look(page, "jupyterlab-run")
    # JupyterLab has asked no question about news, and sends for none
    assert page.locator(".Toastify__toast").count() == 0
    page.locator(".jp-RenderedMarkdown", has_text="Your turn").first.scroll_into_view_if_needed()
    look(page, "jupyterlab-exercise")
