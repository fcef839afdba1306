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
    Mutant(
        "a-worker-keeps-to-its-share",
        "Share.is_free",
        "self.mine < self._most or sum(self._counts) < self._most * self._workers",
        "self.mine < self._most",
        "test_a_worker_uses_what_another_one_leaves_free",
    ),
    Mutant(
        "a-worker-waits-for-its-share",
        "Share.is_free",
        "self.mine < self._most or sum(self._counts)",
        "sum(self._counts)",
        "test_a_worker_has_its_share_at_any_time",
    ),
    Mutant(
        "what-is-overdrawn-is-kept",
        "Admission.contended",
        " or self._held.is_overdrawn",
        "",
        "test_a_worker_has_its_share_at_any_time",
    ),
    Mutant(
        "slots-of-a-killed-worker-stay-taken",
        "Share.__init__",
        "        self._counts[self._index] = 0",
        "        self._counts[self._index] += 0",
        "test_a_killed_worker_leaves_no_place_taken",
    ),
    Mutant(
        "a-hub-client-is-told-what-it-does-not-wait-on",
        "error_answer",
        "_STATUSES.get(error.code)",
        "None",
        "test_it_comes_back_to_a_service_that_has_too_much_to_do",
    ),
)
