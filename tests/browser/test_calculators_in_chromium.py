"""The calculators as a reader uses them: on the site without a kernel, and in JupyterLab."""

from __future__ import annotations

import pytest
from test_jupyterlab import jupyterlab  # noqa: F401  # the fixture
from test_pages import CONTRAST, wider_than_the_window

from redis_lab.calculators import CALCULATORS
from redis_lab.measure import theory
from redis_lab.toc import read_toc

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]  # a busy machine takes its time

LESSONS = {lesson.name: lesson for lesson in read_toc()}
DRAWN = "all => all.length && all.every(figure => figure.view)"
SIGNAL = "(figure, name) => figure.view.signal(name)"


@pytest.fixture
def calculators(site, open_page):
    """`calculators(width, dark)`: the page, with everything drawn."""

    def opened(width: int = 1440, dark: bool = False):
        page = open_page(width, dark)
        page.goto(f"{site}/calculators.html")
        drawn(page)
        return page

    return opened


def drawn(page) -> None:
    page.wait_for_function(f"({DRAWN})([...document.querySelectorAll('figure.calculator')])")


def chart(page, title: str):
    return page.locator(f"figure.calculator[aria-label^='{title}']")


def field(scope, label: str):
    """The field that has this label, for those who see the page and for those who hear it."""
    named = (scope.get_by_role(role, name=label) for role in ("spinbutton", "slider"))
    return next(named).or_(next(named))


def until(figure, text: str) -> None:
    """Wait until the answer holds the text."""
    figure.locator(".calculator-answer", has_text=text).wait_for()


def test_numbers_of_ones_own(calculators, look):
    """Each field is reached by its label, and the text is what the formula gives."""
    page = calculators()
    figure = chart(page, "How deep")
    field(figure, "Round trip").fill("0.5")
    field(figure, "Work for each command").fill("8")
    field(figure, "Commands in one pipeline").fill("25")
    until(figure, "The bend is at 62.5 commands")
    until(figure, "Yours: 25 at once")
    per_us = 1e6 * theory.pipelined(25, 0.0005, 8e-6)
    assert f"25 at once take {per_us:g} µs each" in figure.inner_text().replace("\xa0", " ")
    assert figure.evaluate(SIGNAL, "per_us") == pytest.approx(per_us)
    until(figure, "Measured: up to")
    field(figure, "Commands in one pipeline").fill("50000")
    until(figure, "Outside what was measured: ")
    look(page, "calculators-numbers")


def test_a_slider_is_moved_with_the_keyboard(calculators):
    page = calculators()
    figure = chart(page, "Is a cache")
    slider = field(figure, "Hits (%)")
    before = figure.locator(".calculator-answer").inner_text()
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    text = figure.locator(".calculator-answer").element_handle()
    page.wait_for_function("([text, was]) => text.innerText !== was", arg=[text, before])
    page.wait_for_function(
        f"figure => ({SIGNAL})(figure, 'hits_percent') < 89.05", arg=figure.element_handle()
    )
    assert figure.evaluate(SIGNAL, "hits_percent") == pytest.approx(89)
    values = [figure.evaluate(SIGNAL, name) / 1000 for name in ("query_ms", "hit_ms", "fill_ms")]
    assert figure.evaluate(SIGNAL, "answer_ms") / 1000 == pytest.approx(
        theory.cached(0.89, *values)
    )


def test_a_slider_is_moved_with_the_mouse(calculators, look):
    page = calculators(1024)
    figure = chart(page, "When to recompute")
    slider = field(figure, "β")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    until(figure, "Outside what was measured: ")
    assert figure.evaluate(SIGNAL, "beta") > 3.5
    look(page, "calculators-slider")


def test_the_numbers_stay_when_the_theme_and_the_width_change(calculators):
    page = calculators()
    figure = chart(page, "Where is the knee")
    field(figure, "Requests a second").fill("123")
    until(figure, "Busy: 12.3")
    view = figure.evaluate_handle("figure => figure.view")
    changed = "([figure, view]) => figure.view !== view"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function(changed, arg=[figure.element_handle(), view])
    until(figure, "Busy: 12.3")
    view = figure.evaluate_handle("figure => figure.view")
    page.set_viewport_size({"width": 500, "height": 900})
    page.wait_for_function(changed, arg=[figure.element_handle(), view])
    until(figure, "Busy: 12.3")
    assert field(figure, "Requests a second").input_value() == "123"
    assert wider_than_the_window(page) <= 0


@pytest.mark.parametrize(
    ("width", "dark"), [(1440, False), (1024, False), (1024, True), (400, False), (400, True)]
)
def test_they_fit_and_can_be_read(calculators, look, width, dark):
    page = calculators(width, dark)
    assert wider_than_the_window(page) <= 0
    figures = page.locator("figure.calculator")
    assert figures.count() == len(CALCULATORS)
    for figure in figures.all():
        drawing = figure.locator("[role='graphics-document']")
        assert len(drawing.get_attribute("aria-label")) > 100
        width_px = drawing.locator("svg").bounding_box()["width"]
        assert 250 < width_px <= figure.bounding_box()["width"]
    for place in ("calculator-line", "calculator-within", "calculator-beyond"):
        text = page.locator(f".{place}").first
        assert text.evaluate(CONTRAST) >= 4.5, place
    assert page.locator("figure.calculator figcaption p").first.evaluate(CONTRAST) >= 4.5
    ink = page.locator("html").evaluate("html => getComputedStyle(html.querySelector('p')).color")
    label = page.locator("svg text", has_text="knee").first
    assert label.evaluate("label => getComputedStyle(label).fill") == ink
    look(page, f"calculators-{width}-{'dark' if dark else 'light'}", full=True)


def test_every_lesson_has_its_own(site, open_page):
    page = open_page(1024)
    for name in CALCULATORS:
        lesson = LESSONS[name]
        place = lesson.find().relative_to(lesson.root).with_suffix(".html")
        page.goto(f"{site}/notebooks/{place.as_posix()}")
        drawn(page)
        [answer] = page.locator("figure.calculator .calculator-answer").all_inner_texts()
        assert "measured: " in answer.lower()


def test_the_script_is_there_once_and_only_where_it_is_needed(site, open_page):
    page, asked = open_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site}/status.html")
    assert not [url for url in asked if "calculators.js" in url]
    page.goto(f"{site}/calculators.html")
    drawn(page)
    assert len([url for url in asked if "calculators.js" in url]) == 1
    assert page.evaluate("document.documentElement.outerHTML.length") < 600_000


def test_in_jupyterlab_without_running_anything(jupyterlab, open_page, look):  # noqa: F811
    """The committed output is drawn, and its fields work."""
    page = open_page()
    page.set_default_timeout(240_000)
    page.goto(jupyterlab(LESSONS["pipelines"].find().relative_to(LESSONS["pipelines"].root.parent)))
    depth = field(page, "Commands in one pipeline")
    depth.scroll_into_view_if_needed()
    page.locator("svg text", has_text="Yours: 100 at once").first.wait_for()
    depth.fill("500")
    page.locator("svg text", has_text="Yours: 500 at once").first.wait_for()
    look(page, "jupyterlab-calculator")
