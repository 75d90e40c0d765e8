"""The chooser: its exercises' checks."""

from __future__ import annotations

import pytest

from redis_lab.judging import NotYet
from redis_lab.lessons import which_structure

RIGHT = {question: next(iter(fits)) for question, (fits, _) in which_structure.CHOICES.items()}
DAY = 86_400


def test_the_right_choices():
    assert which_structure.choose(None, RIGHT).startswith("right")


@pytest.mark.parametrize("question", RIGHT)
def test_each_wrong_choice_is_explained(question):
    with pytest.raises(NotYet, match="7 of 8 fit") as hint:
        which_structure.choose(None, RIGHT | {question: "pub/sub"})
    assert which_structure.CHOICES[question][1] in str(hint.value)


def test_choices_that_make_no_sense():
    with pytest.raises(NotYet, match="there is no 'table'"):
        which_structure.choose(None, dict.fromkeys(RIGHT, "table"))
    with pytest.raises(NotYet, match="keep the eight questions"):
        which_structure.choose(None, {})


def answer(
    *, count="pfadd", top=1.0, trim=True, push="lpush", clock=DAY, together=True, lasting=()
):
    def viewed(r, user, page):
        last = f"check:last:{user}"
        pipe = r.pipeline() if together else r
        getattr(pipe, count)("check:visitors", user)
        pipe.zincrby("check:top", top, page)
        getattr(pipe, push)(last, page)
        if trim:
            pipe.ltrim(last, *((0, 4) if push == "lpush" else (-5, -1)))
        for key in ("check:visitors", "check:top", last):
            if key not in lasting:
                pipe.expire(key, clock)
        if together:
            pipe.execute()

    return viewed


def test_viewed_is_accepted(learner):
    assert "one round trip" in which_structure.viewed(learner, answer())


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"count": "sadd"}, "counts without keeping"),
        ({"count": "append"}, "plain string"),
        ({"count": "lpush"}, "TYPE says list"),
        ({"top": 2.0}, "home with 50"),
        ({"trim": False}, "grows with each"),
        ({"push": "rpush"}, "Ada's last pages"),
        ({"together": False}, "7 round trips"),
        ({"lasting": ("check:top",)}, "no time to live"),
        ({"clock": 24}, "86,400 seconds"),
    ],
)
def test_viewed_explains_what_is_wrong(learner, wrong, hint):
    with pytest.raises(NotYet, match=hint):
        which_structure.viewed(learner, answer(**wrong))
