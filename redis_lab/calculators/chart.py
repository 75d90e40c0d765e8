"""What every calculator has: fields for numbers, an answer in words, the chart below it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt

__all__ = ["MIME", "VEGA_LITE", "Calculator", "Number"]

VEGA_LITE = "5.20"  # JupyterLab draws Vega-Lite 5, Altair writes 6; what is used here is in both
MIME = "application/vnd.vegalite.v5+json"
WIDTH, HEIGHT = 560, 250
# In the specification itself, so that a dark JupyterLab does not change half of them: like every
# figure of the lessons a chart is dark on white. The site puts the colours of its theme instead.
INK = {
    "background": "white",
    "text": {"color": "black"},
    "title": {"color": "black", "subtitleColor": "black"},
    "style": {"guide-label": {"fill": "black"}, "guide-title": {"fill": "black"}},
}
AXIS_INK = {"domainColor": "#888", "tickColor": "#888", "gridColor": "#ddd"}
LINE = 16  # pixels from one line of the answer to the next


@dataclass(frozen=True)
class Number:
    """A number that the reader puts in; Vega knows it as `name`, within `low` and `high`.

    With a `step` it is a slider. What is no number counts as the default, `value`.
    """

    name: str
    label: str
    value: float
    low: float
    high: float
    step: float | None = None

    def params(self) -> list[dict[str, Any]]:
        """The field, and what it holds as a number. A field of HTML gives a text."""
        field, bind = (
            f"{self.name}_field",
            {"name": f"{self.label} ", "min": self.low, "max": self.high},
        )
        kind = {"input": "range" if self.step else "number", "step": self.step or "any"}
        typed = f"toNumber({field})"
        return [
            {"name": field, "value": self.value, "bind": kind | bind},
            {
                "name": self.name,
                "expr": f"isValid({typed}) ? clamp({typed}, {self.low}, {self.high})"
                f" : {self.value}",
            },
        ]


@dataclass(frozen=True)
class Calculator:
    """A chart with fields for numbers, and a text that answers its question in words.

    `values` are named expressions of Vega, in an order in which each may use those before it;
    `inside` is whether the formula was checked for these numbers. `answer` is one expression for
    each line of the text, `checked` a text that says what was measured. `layers` draw curves and
    points; `source` is the data that the answer is read from, if it is not from the values alone.
    """

    title: str
    description: str
    key: Sequence[str]
    numbers: Sequence[Number]
    values: Mapping[str, str]
    inside: str
    answer: Sequence[str]
    checked: str
    layers: Sequence[alt.Chart]
    source: alt.Chart | None = None

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The chart in Vega-Lite 5."""
        source = self.source or alt.Chart(alt.InlineData(values=[{}]))
        checked = f"(inside ? 'Measured: ' : 'Outside what was measured: ') + '{self.checked}'"
        lines = " + '\\n' + ".join(self.answer)
        chart = alt.layer(
            *self.layers,
            _text(source, "answer", lines, -(len(self.answer) + 1) * LINE - 10),
            _text(
                alt.Chart(alt.InlineData(values=[{}])), "checked", checked, -LINE - 10,
                fontWeight=alt.ExprRef("inside ? 'normal' : 'bold'"),
            ),
        ).properties(
            title=alt.TitleParams(
                self.title, anchor="start", fontSize=15, offset=10, subtitle=list(self.key),
                subtitleFontSize=11, subtitlePadding=6,
            ),
            width=WIDTH,
            height=HEIGHT,
        ).configure_view(stroke=None).configure_axis(
            titleFontSize=12, labelFontSize=11, gridOpacity=0.35, titleFontWeight="normal"
        )  # fmt: skip
        drawn = chart.to_dict()
        drawn["config"] = {**drawn["config"], **INK}
        drawn["config"]["axis"] |= AXIS_INK
        derived = {**self.values, "inside": self.inside}
        return {
            **drawn,
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "description": self.description,
            "params": [
                *(param for number in self.numbers for param in number.params()),
                *({"name": name, "expr": expr} for name, expr in derived.items()),
            ],
        }

    def png(self) -> bytes:
        """The chart with its defaults as a picture, for where there is no JavaScript."""
        import vl_convert
        from PIL import Image

        drawn = vl_convert.vegalite_to_png(self.spec, vl_version=VEGA_LITE, scale=1.5)
        picture, out = Image.open(io.BytesIO(drawn)).convert("RGB"), io.BytesIO()
        method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
        picture.quantize(64, method=method, dither=dither).save(out, format="png", optimize=True)
        return out.getvalue()

    def __repr__(self) -> str:
        return f"{self.title} (a calculator; JupyterLab and the site draw it)"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {MIME: self.spec, "image/png": self.png(), "text/plain": repr(self)}
        return data, {
            MIME: {"embed_options": {"actions": False, "renderer": "svg"}},
            "image/png": {"alt": self.description},
        }


def _text(source: alt.Chart, name: str, text: str, y: float, **style: Any) -> alt.Chart:
    """Lines of text above the chart."""
    shown = source.transform_calculate(text=text).mark_text(
        align="left", baseline="top", fontSize=12.5, lineHeight=LINE, lineBreak="\n",
        limit=0, **style,
    )  # fmt: skip
    encoded = shown.encode(x=alt.value(0), y=alt.value(y), text="text:N")
    return encoded.properties(name=name)
