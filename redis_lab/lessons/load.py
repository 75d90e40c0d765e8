"""The lesson on load and tail latency: its exercises and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from redis_lab.figures import Chart, Lines
from redis_lab.judging import NotYet, exercise, vary

FIGURES: dict[str, Chart] = {
    "load_omission": Lines(
        title="One server, the same half second, three ways to look",
        x="share",
        y="ms",
        by="what",
        xlabel="share of requests that took at least so long (%)",
        ylabel="time (ms)",
        meanings={
            "closed loop": "lost",
            "open loop, response time": "ours",
            "open loop, service time": "baseline",
        },
    ),
    "load_knee": Lines(
        title="The busier the server, the longer the queue",
        x="busy",
        y="ms",
        by="what",
        theory="theory",
        theory_label="Pollaczek and Khinchin: T₀ + S + ρS / (2(1 − ρ))",
        xscale="linear",
        yscale="linear",
        xlabel="how busy the server is (%)",
        ylabel="response time (ms)",
    ),
    "load_saturation": Lines(
        title="How many GETs a second, at most?",
        x="depth",
        y="per_second",
        by="what",
        xlabel="commands in a batch",
        ylabel="GETs a second",
        meanings={
            "load.saturate": "ours",
            "redis-benchmark": "theirs",
            "redis-py, one client": "baseline",
        },
    ),
}


@exercise(
    hints=(
        "While one request took 10 ms, a client with one request every 2 ms would have sent "
        "more. How long would each of those have waited?",
        "The next would have waited one interval less than the slow one, the one after it two "
        "intervals less, and so on, as long as there is any wait left.",
        "For each latency: append it, then start at `latency - interval_ms`, and while that is "
        "above 0, append it and subtract the interval again.",
    )
)
def corrected(_: redis.Redis, answer: Callable[[Sequence[float], float], Sequence[float]]) -> str:
    many = vary(5, 6, 12)
    for latencies, interval, right in (
        ([1, 1, 1], 2, [1, 1, 1]),
        ([1, 10, 1], 2, [1, 1, 2, 4, 6, 8, 10]),
        ([1, 100 * many, 1], 100, [1, 1, *range(100, 100 * many + 1, 100)]),
    ):
        got = sorted(answer(latencies, interval))
        case = f"of {latencies} with one every {interval} ms your function makes {got}"
        if len(got) < len(right):
            raise NotYet(
                f"{case}: {len(right) - len(got)} are missing. While one request took "
                f"{max(latencies)} ms, others would have come, and each would have waited."
            )
        if len(got) > len(right):
            raise NotYet(
                f"{case}: {len(got) - len(right)} too many. A request that would not have waited "
                "was not left out."
            )
        if got != right:
            raise NotYet(f"{case}, and not {right}: the later it comes, the less it waits.")
    return "right: this is what HdrHistogram's record_corrected_value does"


@exercise(
    hints=(
        "At 1000 / service_ms the server is busy all the time, and the queue grows without "
        "end. How busy (ρ) may it be, so that the mean wait is `wait_ms`?",
        "For commands of equal length the mean wait is ρ · S / (2 · (1 − ρ)). Set it equal to "
        "`wait_ms` and solve it for ρ.",
        "ρ is 2w / (S + 2w). The rate is ρ divided by S, in requests a millisecond; times 1000 "
        "it is in requests a second.",
    )
)
def rate_for(_: redis.Redis, answer: Callable[[float, float], float]) -> str:
    for service_ms, wait_ms in ((1, 0.5), (1, 9.5), (0.02, 0.1), (vary(5, 6, 20), 1)):
        got = answer(service_ms, wait_ms)
        right = 1000 / service_ms * 2 * wait_ms / (service_ms + 2 * wait_ms)
        case = f"for {service_ms:g} ms of work and a wait of {wait_ms:g} ms you say {got:,.0f}"
        if got > 0.999 * 1000 / service_ms:
            raise NotYet(
                f"{case} a second. Then the server is busy all the time, and the queue grows "
                "without end. ρS/(2(1−ρ)) = wait: solve it for ρ."
            )
        if abs(got - 1000 * wait_ms / service_ms / (service_ms + wait_ms)) < 0.001 * got:
            raise NotYet(
                f"{case} a second: right for commands of random length (M/M/1). "
                "Here all have the same length, which halves the wait."
            )
        if abs(got / right - 1) > 0.01:
            raise NotYet(f"{case} a second, and it is {right:,.0f}: ρ = 2w / (S + 2w), λ = ρ / S.")
    return "right: the wait decides how busy the server may be"
