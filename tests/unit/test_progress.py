"""Progress of long work: a calm line in a notebook, which leaves nothing behind."""

from __future__ import annotations

import sys

import nbformat
import pytest
from nbclient import NotebookClient

from redis_lab import claims, notebooks
from redis_lab.measure import progress

SHOWN = """
from IPython.utils.capture import capture_output
from redis_lab.measure import progress
progress.EVERY_S = 0
with capture_output() as seen:
    assert list(progress.show_progress(range(4), "GET <b>", after_s=0)) == [0, 1, 2, 3]
for each in seen.outputs:
    print(each.data.get("text/html", "nothing"))
"""
ENDS = """
for k in progress.show_progress(range(4), "GET", after_s=0):
    pass
"""
INTERRUPTED = """
try:
    for k in progress.show_progress(range(4), "GET", after_s=0):
        if k == 2:
            raise KeyboardInterrupt
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("strict", [False, True])
def test_in_a_notebook_the_line_is_gone_at_the_end(monkeypatch, strict):
    monkeypatch.delenv(claims.FILE, raising=False)
    monkeypatch.delenv(claims.STRICT, raising=False)
    if strict:
        monkeypatch.setenv(claims.STRICT, "1")
    cells = [nbformat.v4.new_code_cell(source) for source in (SHOWN, ENDS, INTERRUPTED)]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, kernel_name="python3", timeout=100).execute()
    lines = "".join(output.text for output in book.cells[0].outputs).splitlines()
    left = [[o for o in cell.outputs if o.output_type == "display_data"] for cell in book.cells[1:]]
    if strict:
        assert lines == [] and left == [[], []]
        return
    assert lines[0] == "<small>GET &lt;b&gt;: 25 %, about 0 s left</small>"
    assert len(lines) == 4 and lines[-1] == "nothing"
    for (output,) in left:
        assert output.data == {} and notebooks._is_progress_bar(output)
    assert not any(o.get("name") == "stderr" for cell in book.cells for o in cell.outputs)


def test_in_a_terminal_it_is_a_bar_on_standard_error(capsys, monkeypatch):
    monkeypatch.delenv(claims.FILE, raising=False)
    monkeypatch.delenv(claims.STRICT, raising=False)
    assert list(progress.show_progress(range(3), "GET", after_s=0)) == [0, 1, 2]
    assert capsys.readouterr().out == "" and sys.stderr


@pytest.mark.parametrize(("took_s", "says"), [(6.0, "about 18 s left"), (60.0, "about 3 min left")])
def test_the_rest_is_estimated_from_what_was_done(took_s, says):
    assert progress.describe_progress("GET", 10, 40, took_s) == f"GET: 25 %, {says}"
