"""The built site in Chromium, as a reader without a Jupyter meets it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from redis_lab.toc import read_toc

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]  # a busy machine takes its time

LESSONS = read_toc()
WIDTHS = (1024, 400)

# The contrast between a text and what is behind it, as WCAG defines it: 21 is black on white.
CONTRAST = """element => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  const opaque = at => {
    const [, , , alpha = 1] = channels(getComputedStyle(at).backgroundColor);
    return alpha > 0.9;
  };
  while (behind.parentElement && !opaque(behind)) behind = behind.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor]
    .map(colour => luminance(channels(colour)) + 0.05);
  return Math.max(a, b) / Math.min(a, b);
}"""


def address(lesson) -> str:
    place = lesson.find().relative_to(lesson.root).with_suffix(".html")
    return f"notebooks/{place.as_posix()}"


@pytest.fixture
def strings(site):
    return f"{site}/{address(next(each for each in LESSONS if each.name == 'strings'))}"


def heading(page) -> str:
    return page.locator("article h1").first.inner_text().strip("# \n")


def wider_than_the_window(page) -> int:
    """By how many pixels the page can be moved sideways."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_from_home_through_the_first_lessons(site, open_page, look):
    page = open_page()
    page.goto(f"{site}/")
    look(page, "home")
    page.locator("article").get_by_role("link", name=LESSONS[0].title()).first.click()
    for here, following in pairwise(LESSONS[:4]):
        page.wait_for_url(f"**/{address(here)}")
        assert heading(page) == here.title()
        page.locator("a.right-next").click()
        page.wait_for_url(f"**/{address(following)}")
    page.locator("a.left-prev").click()
    page.wait_for_url(f"**/{address(LESSONS[2])}")


@pytest.mark.parametrize("width", WIDTHS)
def test_every_lesson(site, open_page, width):
    """Follows toc.yml; each image has a text; the page is no wider than the window."""
    page, wrong = open_page(width), []
    around = [None, *LESSONS, None]
    for place, lesson in enumerate(LESSONS):
        page.goto(f"{site}/{address(lesson)}")
        if heading(page) != lesson.title():
            wrong.append((lesson.name, "is headed", heading(page)))
        for arrow, other in (("left-prev", around[place]), ("right-next", around[place + 2])):
            leads_to = page.locator(f"a.{arrow}").evaluate("a => a.href")
            if other and leads_to != f"{site}/{address(other)}":
                wrong.append((lesson.name, arrow, leads_to))
        images = page.locator("article img")
        texts = images.evaluate_all("all => all.map(img => img.alt)")
        shown = images.evaluate_all("all => all.every(img => img.complete && img.naturalWidth)")
        if not texts or not all(len(text) > 10 for text in texts) or not shown:
            wrong.append((lesson.name, "images", texts, shown))
        if by := wider_than_the_window(page):
            wrong.append((lesson.name, "pixels too wide", by))
    assert not wrong


@pytest.mark.parametrize("width", WIDTHS)
def test_the_other_pages_fit(site, open_page, look, width):
    page, wrong = open_page(width), []
    pages = "index", "notebooks/glossary", "notebooks/from_node", "patterns/index", "patterns/lock"
    for name in (*pages, "status", "docs/architecture", "docs/environment", "data/README"):
        page.goto(f"{site}/{name}.html")
        look(page, f"{name.replace('/', '-')}-{width}")
        if by := wider_than_the_window(page):
            wrong.append((name, by))
    assert not wrong


def test_search_finds_a_command(site, open_page, look):
    page = open_page()
    page.goto(f"{site}/")
    page.locator("button.search-button-field, button.search-button").first.click()
    page.locator("input[name=q]:visible").fill("ZRANGEBYSCORE")
    page.keyboard.press("Enter")
    first = page.locator("#search-results ul.search li a").first
    first.wait_for()
    look(page, "search")
    assert first.inner_text().strip() == "Sorted sets"
    first.click()
    page.wait_for_url("**/07_sorted_sets.html*")
    assert "ZRANGEBYSCORE" in page.locator("article").inner_text()


def test_a_solution_is_folded_and_opens(strings, open_page, look):
    page = open_page()
    page.goto(strings)
    folded = page.locator("article details.hide")
    assert folded.count() == 2
    answer = folded.first.locator("pre").first
    assert not answer.is_visible()
    assert "Show one solution" in folded.first.locator("summary").inner_text()
    assert "keepttl=True)" not in page.locator("article").inner_text().split("Your turn")[-1]
    folded.first.locator("summary").click()
    answer.wait_for(state="visible")
    assert "keepttl=True" in answer.inner_text()
    folded.first.scroll_into_view_if_needed()
    look(page, "solution")


def test_the_dark_theme_can_be_chosen_and_read(strings, open_page, look):
    page = open_page()
    page.goto(strings)
    for theme in ("light", "dark"):
        page.locator("button.theme-switch-button:visible").click()
        page.locator(f"button.theme-change-button[data-mode={theme}]").click()
        assert page.locator("html").get_attribute("data-theme") == theme
        places = (
            *("article h1", "article p", "article td", "article th", "article a.reference"),
            *("article .cell_input pre", "article .cell_input .k", "article .cell_input .s2"),
            *("article .cell_output pre", "article .cell_input .c1", "details.hide summary"),
        )
        weak = {}
        for place in places:
            contrast = page.locator(place).first.evaluate(CONTRAST)
            if contrast < 4.5:
                weak[place] = round(contrast, 2)
        assert not weak, theme
        look(page, f"strings-{theme}", full=True)


def test_formulas_are_drawn_without_a_script(site, open_page, look):
    lesson = next(each for each in LESSONS if each.name == "hit_ratio")
    page = open_page()
    page.goto(f"{site}/{address(lesson)}")
    formula = page.locator("article math[display=block]").first
    box = formula.bounding_box()
    assert box["width"] > 100 and box["height"] > 20
    assert not re.search(r"\$\$|\\(frac|sum|text)", page.locator("article").inner_text())
    formula.scroll_into_view_if_needed()
    look(page, "formula")


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (1024, "dark"), (400, "dark")])
def test_the_theme_is_that_of_the_readers_system(site, open_page, look, width, theme):
    page = open_page(width, dark=theme == "dark")
    for lesson in LESSONS:
        if lesson.name in ("start_here", "cache_aside"):
            page.goto(f"{site}/{address(lesson)}")
            assert page.locator("html").get_attribute("data-theme") == theme
            look(page, f"{lesson.name}-{width}-{theme}", full=True)
