"""How long the fuzzers look, and what every refusal has to be like."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

from registry.errors import RegistryError

_SLOW_TO_MAKE: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

QUICK: Final = settings(
    max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=_SLOW_TO_MAKE
)
"""For every run: the same examples each time."""

LONG: Final = settings(max_examples=2_500, deadline=None, suppress_health_check=_SLOW_TO_MAKE)
"""For `make test-slow`: other examples each time."""

LONGEST_MESSAGE: Final = 1200


def said_well(problem: RegistryError, *codes: str) -> None:
    """A refusal is one printable, bounded sentence or two, whatever the stranger sent, with one of the codes."""
    assert not codes or problem.code in codes, problem.code
    text = str(problem)
    assert 20 <= len(text) <= LONGEST_MESSAGE, (len(text), text[:200])
    assert text.isprintable(), ascii(text)
    text.encode("utf-8")
