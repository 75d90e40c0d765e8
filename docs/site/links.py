"""Check a built site: no link within it is broken, and nothing is loaded from other sites.

python docs/site/links.py build/site
"""

from __future__ import annotations

import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser fetches by itself when it shows a page, unlike an <a href>.
LOADED = {
    ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"),
    ("audio", "src"), ("track", "src"), ("embed", "src"), ("object", "data"), ("input", "src"),
}  # fmt: skip
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest", "apple-touch-icon"}
IN_CSS = re.compile(r"""@import\s+["']([^"']+)|url\(\s*["']?([^"')]+)""")


class Page(HTMLParser):
    """A page's links, its resources, its anchors, and its images without alternative text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.without_alt: list[str] = []
        self.in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and set(given.get("rel", "").split()) & LOADED_LINKS:
            self.loaded.append(given.get("href", ""))
        self.loaded += [given[name] for of, name in LOADED if of == tag and name in given]
        for candidate in filter(str.strip, given.get("srcset", "").split(",")):
            self.loaded.append(candidate.split()[0])
        self.loaded += of_css(given.get("style", ""))
        if tag == "img" and not given.get("alt", "").strip():
            self.without_alt.append(given.get("src", "")[:80])

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loaded += of_css(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_style = False


def of_css(text: str) -> list[str]:
    return [one or other for one, other in IN_CSS.findall(text)]


def faults(site: Path) -> list[str]:
    """A line for each broken link, resource of another site, and image without text."""
    site = site.resolve()
    files = [file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts]
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in files}
    found = [] if pages else [f"{site} holds no page"]
    for file, page in pages.items():
        name = file.relative_to(site).as_posix()
        found += [f"{name}: a link leads nowhere: {link}" for link in page.links
                  if lost(link, file, pages, site)]  # fmt: skip
        found += [f"{name}: {why}" for address in page.loaded
                  if (why := not_here(address, file, site))]  # fmt: skip
        found += [f"{name}: an image without alternative text: {src}" for src in page.without_alt]
    for file in sorted(site.rglob("*.css")):
        name = file.relative_to(site).as_posix()
        found += [f"{name}: {why}" for address in of_css(file.read_text(encoding="utf-8"))
                  if (why := not_here(address, file, site))]  # fmt: skip
    return found


def target(address: str, file: Path, site: Path) -> Path | None:
    """The file of the site that a relative address names; None if it leads outside the site."""
    path = unquote(urlsplit(address).path)
    place = Path(os.path.normpath(file.parent / path)) if path else file
    if place.is_dir():
        place /= "index.html"
    return place if place.is_relative_to(site) else None


def lost(link: str, file: Path, pages: dict[Path, Page], site: Path) -> bool:
    if urlsplit(link).scheme or link.startswith("//"):
        return False  # a page of another site: the build makes no requests
    place = target(link, file, site)
    if place is None or not place.is_file():
        return True
    anchor = unquote(urlsplit(link).fragment)
    page = pages.get(place)
    return bool(anchor and page and anchor not in page.anchors)


def not_here(address: str, file: Path, site: Path) -> str:
    """Why a page cannot load this from its own site; empty if it can."""
    if address.startswith(("data:", "#", "blob:")):
        return ""
    if urlsplit(address).scheme or address.startswith("//"):
        return f"is loaded from elsewhere: {address}"
    place = target(address, file, site)
    return "" if place and place.is_file() else f"is missing: {address}"


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]))
    print("\n".join(wrong) or "Every link leads somewhere; nothing is loaded from elsewhere.")
    sys.exit(bool(wrong))
