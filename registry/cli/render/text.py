"""Formats numbers, times and untrusted text for the terminal: those of `registry.figures`, and some of its own."""

from __future__ import annotations

from collections.abc import Iterable

from registry.figures import amount, clean, counted, metrics, moment, number, ranked, short_digest, size

__all__ = [
    "amount",
    "clean",
    "counted",
    "metrics",
    "moment",
    "number",
    "numbers",
    "percent",
    "ranked",
    "short_digest",
    "size",
]


def numbers(values: Iterable[float]) -> str:
    """Several numbers in one cell."""
    return ", ".join(number(value) for value in values)


def percent(share: float) -> str:
    """A share of the model: ``0.29 %``."""
    return f"{100 * share:.2g} %" if abs(share) < 0.1 else f"{100 * share:.0f} %"
