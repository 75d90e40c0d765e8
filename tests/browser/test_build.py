"""`make site` as a command: interrupted, or with something wrong in a page."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import within

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]  # a busy machine takes its time


@pytest.fixture
def built(tmp_path):
    """The folder of a site that was built before."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("the one before")
    return site


def test_ctrl_c_leaves_the_site_that_was_there(built):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "docs/site/build.py"), str(built)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = "site-unfinished-*/source/status.md"
    assert within(60, lambda: list(built.parent.glob(begun)))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130, said
    assert said.strip() == "Stopped. The site that was there is as it was."
    assert [each.name for each in built.parent.iterdir()] == ["site"]
    assert (built / "index.html").read_text() == "the one before"
