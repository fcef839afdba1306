"""Faults that are taken for others: clients that hang up, bytes that change on their way, stores that lie."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_SENDING: Final = "test_who_hangs_up_while_sending_is_no_fault_of_the_service"
_READING: Final = "test_who_hangs_up_while_reading_is_no_fault_of_the_service"

FAULTS: Final = (
    Mutant(
        "a-hang-up-is-a-500",
        "_Response._forward",
        "if self._context.broken is not None:",
        "if False:",
        _SENDING,
    ),
    Mutant(
        "who-hangs-up-has-read-all",
        "_Response.finish",
        "if not self._complete:",
        "if False:",
        _READING,
    ),
    Mutant(
        "an-answer-that-broke-off-went-well",
        "RequestMiddleware.__call__",
        "context.breaks(error.status)",
        "pass",
        "test_an_answer_that_the_service_breaks_off_has_the_status_of_its_fault",
    ),
    Mutant(
        "who-is-gone-got-an-answer",
        "_Response._forward",
        "self._scope[SOCKET_WRITER].closed",
        "False",
        "test_who_hangs_up_before_an_answer_is_no_fault_of_the_service",
    ),
)
