"""Workers of one service: what they add up and what they divide."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

WORKERS: Final = (
    Mutant(
        "what-was-counted-is-counted-again",
        "SharedMetrics.update",
        "sample.value - self._counted.get((family.name, labels), 0.0)",
        "sample.value",
        "test_workers_add_up_and_a_successor_goes_on",
    ),
    Mutant(
        "gauges-of-one-worker-only",
        "SharedMetrics._metric",
        'multiprocess_mode="sum"',
        'multiprocess_mode="max"',
        "test_workers_add_up_and_a_successor_goes_on",
    ),
    Mutant(
        "every-worker-has-all-seats",
        "Limits.divided",
        "getattr(self, name) // workers",
        "getattr(self, name)",
        "test_what_is_refused_beyond_a_number_is_divided",
    ),
    Mutant(
        "routes-made-while-others-answer",
        "service:build",
        "    _make_routes(app)\n",
        "",
        "test_answering_does_not_touch_the_filter_of_warnings",
    ),
    Mutant(
        "interrupt-lost-in-the-hook",
        "_is_in_hook",
        "        if frame.f_code is _interrupt_again.__code__:",
        "        if frame.f_code is None:",
        "test_ctrl_c_that_strikes_the_hook_itself_ends_the_command",
    ),
)
