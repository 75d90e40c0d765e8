"""Build the site from the notebooks with their committed outputs: `make site`.

    python docs/site/build.py build/site

Nothing is executed or downloaded, neither here nor by the pages. The order of the lessons is that
of notebooks/toc.yml. Warnings are errors, and so are broken links. The site is moved to its folder
only when it is complete; after Ctrl-C the old site is still there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import tomllib
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import links
import pages
import vl_convert
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from redis_lab.calculators.chart import MIME
from redis_lab.child import TemporaryFolder
from redis_lab.toc import read_toc

ROOT = pages.ROOT
sys.path.insert(0, str(ROOT / "docs"))

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TITLE = "Redis, measured"
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")


# ---------------------------------------------------------------- what Sphinx reads


def stage(source: Path) -> None:
    """Write the files that Sphinx reads: the repository's pages at their paths, and generated
    pages.

    The paths are those of the repository, so relative links work unchanged.
    """
    for lesson in read_toc():
        put(source, lesson.find(), prepared(lesson.find()))
    put(source, ROOT / "index.md", pages.home(renamed((ROOT / "README.md").read_text("utf-8"))))
    for page in documents():
        put(source, page, renamed(page.read_text("utf-8")))
    generated = {
        "status.md": pages.status(),
        "machines.md": pages.machines(),
        "calculators.md": pages.calculators(),
    }
    for name, text in {**generated, **pages.patterns()}.items():
        put(source, ROOT / name, text)
    shutil.copytree(ROOT / "redis_lab/patterns", source / "redis_lab/patterns")
    for page in [ROOT / "README.md", *documents()]:
        for name in LINK.findall(page.read_text("utf-8")):
            wanted = (page.parent / name).resolve()
            if wanted.is_file() and wanted.suffix not in (".md", ".ipynb"):
                place = source / wanted.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(wanted, place)


def documents() -> list[Path]:
    """Pages of the repository that become pages of the site, except the README, which is the home
    page.
    """
    top = [ROOT / f"{name}.md" for name in ("SECURITY", "CONTRIBUTING", "CHANGELOG")]
    places = [ROOT / "notebooks", ROOT / "docs", ROOT / "data"]
    return [*top, *(page for place in places for page in sorted(place.glob("*.md")))]


def put(source: Path, origin: Path, text: str) -> None:
    place = source / origin.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")


def renamed(text: str) -> str:
    """A page's text; links to the README lead to the site's home page."""
    text = re.sub(r"\]\(((?:\.\./)*)README\.md(#[^)]*)?\)", r"](\1index.md\2)", text)
    # The glossary: its words are one level further down. (A lesson's cell is not a page.)
    if text.startswith("# ") and "\n## " not in text:
        text = re.sub("^### ", "## ", text, flags=re.M)
    if "```js ioredis" in text:  # one call in three clients: GitHub shows no labels for them
        text = re.sub(r"^```(js|python)\b *(\w*)$", with_caption, text, flags=re.M)
    # A diagram is shown as source text: drawing it would need a script of three megabytes.
    return text.replace("```mermaid\n", "```text\n")


def with_caption(fence: re.Match[str]) -> str:
    language, name = fence.groups()
    client = {"": "redis-py", "upstash": "@upstash/redis"}.get(name, name)
    return f"```{{code-block}} {language}\n:caption: {client}\n"


def prepared(path: Path) -> str:
    """A notebook for the site: solutions folded, figures with their alternative texts."""
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = renamed("".join(cell["source"]))
        tags = cell["metadata"].setdefault("tags", [])
        if "solution" in tags:
            tags.append("hide-cell")
        if cell["cell_type"] == "code" and is_prose(shown(cell)):
            tags.append("sentences")
        for output in cell.get("outputs", ()):
            if MIME in output.get("data", {}):
                data = output["data"]
                output["data"] = {"text/html": pages.chart_html(data[MIME], data["image/png"])}
        alternatives = [
            output["metadata"]["image/png"]["alt"]
            for output in cell.get("outputs", ())
            if "image/png" in output.get("data", {})
        ]
        if alternatives:
            [text] = alternatives  # myst-nb has one alternative text for all images of a cell
            cell["metadata"]["mystnb"] = {"image": {"alt": text}}
    return json.dumps(notebook, ensure_ascii=False)


def shown(cell: dict[str, Any]) -> list[str]:
    """The lines of text that a cell shows. Its tables get the class that the theme styles."""
    lines = pages.said(cell)
    for data in (output.get("data", {}) for output in cell["outputs"]):
        if "text/html" in data:
            table = "".join(data["text/html"])
            data["text/html"] = table.replace("<table>", '<table class="dataframe">')
        elif set(data) == {"text/plain"}:
            lines += "".join(data["text/plain"]).splitlines()
    return lines


def is_prose(lines: list[str]) -> bool:
    """Whether text may be wrapped, because it has no columns."""
    return not any(re.search(r"\S {2,}\S", line) for line in lines)


def write_script(folder: Path) -> None:
    """What draws the calculators, in one file with Vega; vl-convert brings it, so it is local."""
    folder.mkdir(parents=True)
    source = Path(__file__).with_name("calculators.js").read_text("utf-8")
    bundle = vl_convert.javascript_bundle(source)
    script = f"(() => {{\n{bundle}\n}})();\n"  # its short names are no names of the page
    (folder / "calculators.js").write_text(script, encoding="utf-8")


# ---------------------------------------------------------------- how Sphinx is set up


def settings(generated: Path) -> dict[str, Any]:
    """Of Sphinx. `generated` holds static files that are no files of the repository."""
    return {
        "project": TITLE,
        "author": PROJECT["authors"][0]["name"],
        "copyright": PROJECT["authors"][0]["name"],
        "version": PROJECT["version"],
        "language": "en",
        "extensions": ["myst_nb", "extension"],
        "nitpicky": True,
        "highlight_language": "none",  # for blocks that name no language; most are for a shell
        "html_theme": "sphinx_book_theme",
        "html_title": TITLE,
        "html_static_path": [str(Path(__file__).with_name("static")), str(generated)],
        "html_css_files": ["style.css"],
        "html_context": {"default_mode": "auto"},  # light or dark, as in the reader's system
        "html_math_renderer": "mathml",
        "html_copy_source": False,
        "html_show_sphinx": False,
        "html_theme_options": theme(PROJECT.get("urls", {})),
        "myst_enable_extensions": ["dollarmath"],
        "myst_heading_anchors": 4,
        "nb_execution_mode": "off",
        "nb_code_prompt_show": "Show one solution",
        "nb_code_prompt_hide": "Hide the solution",
        "nb_merge_streams": True,
        "nb_render_markdown_format": "myst",
        "nb_ipywidgets_js": {},
    }


def theme(urls: dict[str, str]) -> dict[str, Any]:
    """Options of the theme; buttons to edit and to launch only if the project has an address."""
    options: dict[str, Any] = {
        "use_download_button": False,
        "use_fullscreen_button": False,
        "show_navbar_depth": 1,
        "show_toc_level": 2,
        "navigation_with_keys": False,
        "navbar_persistent": [],
        "primary_sidebar_end": [],  # this is a place for advertisements
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
    }
    address = urls.get("Repository")
    if address:
        options |= {
            "repository_url": address,
            "repository_branch": "main",
            "use_repository_button": True,
            "use_edit_page_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "notebook_interface": "jupyterlab",
            },
        }
    return options


# ---------------------------------------------------------------- build


def build(site: Path) -> int:
    """Build into `site`; returns an exit code. Errors are printed on stderr."""
    with work_folder(site) as name:
        work = Path(name)
        source, html = work / "source", work / "html"
        stage(source)
        write_script(work / "static")
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                srcdir=source,
                confdir=None,
                outdir=html,
                doctreedir=work / "doctrees",
                buildername="html",
                confoverrides=settings((work / "static").resolve()),
                status=None,
                warningiserror=True,
                parallel=os.cpu_count() or 1,
            )
            app.build()
        if app.statuscode:
            print("The site was not built: the warnings above are errors.", file=sys.stderr)
            return app.statuscode
        write_api(html / "api")
        wrong = links.faults(html)
        print("\n".join(wrong), end="\n" * bool(wrong), file=sys.stderr)
        if wrong:
            print(f"The site was not built: {len(wrong)} faults.", file=sys.stderr)
            return 1
        shutil.rmtree(site, ignore_errors=True)
        os.replace(html, site)
    return 0


def work_folder(site: Path) -> TemporaryFolder:
    """An empty folder beside the site, gone at the end, whatever ends this process."""
    site.parent.mkdir(parents=True, exist_ok=True)
    return TemporaryFolder(f"{site.name}-unfinished-", site.parent)


def end_with(owner: int) -> None:
    """Let a process that Sphinx has forked end when the one that builds has gone."""

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(0.25)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_api(folder: Path) -> None:
    """The API reference, as `make docs` writes it."""
    import api

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        api.write(folder)


if __name__ == "__main__":
    began = time.monotonic()
    os.register_at_fork(after_in_child=partial(end_with, os.getpid()))
    signal.signal(signal.SIGTERM, lambda ended_by, _: sys.exit(128 + ended_by))
    try:
        code = build(Path(sys.argv[1]))
    except KeyboardInterrupt:
        print("\nStopped. The site that was there is as it was.", file=sys.stderr)
        sys.exit(130)
    if not code:
        print(f"Written in {time.monotonic() - began:.0f} s: {sys.argv[1]}/index.html")
    sys.exit(code)
