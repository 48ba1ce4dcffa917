"""Median times of calls, and the memory that a call needs at its peak."""

import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]


def medians(calls: Mapping[str, Call], seconds: float) -> dict[str, float]:
    """Median time of each call in milliseconds, over about `seconds` but at least three rounds.

    The calls take turns (A B C A B C ...) because the speed of a shared machine drifts: ratios of
    medians from one run are more reliable than the medians. A first round is not timed.
    """
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = max(3, int(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(call: Call) -> int:
    """The most bytes of tensors that `call` holds at once, not counting those held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))
