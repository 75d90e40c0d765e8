"""Chromium, the built site over a local server, and pages that note what goes wrong in them.

`make browser` builds the site and runs these; plain `make test` leaves them out. Where there is no
Chromium they are skipped and say so. A picture of each page looked at goes to build/screenshots.
"""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "site"
SCREENSHOTS = ROOT / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# The first: Chromium's sandbox refuses to run as root. The others: it asks nobody for updates.
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions"),
)


@pytest.fixture(scope="session")
def chromium():
    """The system's Chromium, driven by Playwright."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        yield browser
        browser.close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def site():
    """The address of the built site."""
    if not (SITE / "index.html").exists():
        pytest.fail("build/site is not built: make site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(chromium):
    """`open_page(width=1440, dark=False)`: a new page.

    At the end of the test there must have been no error on a console and no request to another
    machine. A page's `set_default_timeout` is generous: the machine may be busy.
    """
    contexts, wrong = [], []

    def new(width: int = 1440, dark: bool = False):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))

        def only_from_here(route):
            address = urlsplit(route.request.url)
            if address.hostname in ("127.0.0.1", "localhost") or address.scheme in ("data", "blob"):
                return route.continue_()
            wrong.append(f"asks another machine: {route.request.url}")
            return route.abort()

        context.route("**/*", only_from_here)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def look():
    """`look(page, "home")`: keep a picture of what is seen; `full` of the whole page."""

    def keep(page, name: str, full: bool = False) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full, animations="disabled")

    return keep
