"""Texts and numbers that people write about revisions: what every database can keep, and names that can be typed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from registry.errors import UsageError

MAX_TEXT: Final = 10_000  # characters
NAME_RULE: Final = "at most 64 of A-Z a-z 0-9 . _ : / @ + - are expected, beginning with a letter or digit"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}")


def is_plain(text: str) -> bool:
    """Whether databases take a text: no NUL (PostgreSQL), nothing that has no UTF-8 form."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def check_text(what: str, text: str) -> str:
    """Return ``text`` if it can be kept: not too long, and plain.

    Raises:
        UsageError: with what is wrong.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"{what} has {len(text)} characters: at most {MAX_TEXT} are expected.")
    if not is_plain(text):
        raise UsageError(f"{what} contains a NUL or an invalid character: plain text is expected.")
    return text


def check_name(what: str, name: str) -> str:
    """Return ``name`` if it can name a metric or an annotation.

    Raises:
        UsageError: ``bad_name``, with the rule.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r} is not allowed: {NAME_RULE}.", code="bad_name")
    return name


def check_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics by name, with values that are finite.

    Raises:
        UsageError: naming the metric.
    """
    checked = {}
    for name, value in metrics.items():
        check_name("Metric name", name)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"Metric {name} is {value!r}: a finite number is expected.")
        checked[name] = number
    return checked


def check_annotations(annotations: Mapping[str, str]) -> dict[str, str]:
    """Annotations by key.

    Raises:
        UsageError: naming the annotation.
    """
    for key, value in annotations.items():
        check_name("Annotation key", key)
        check_text(f"Annotation {key}", value)
    return dict(annotations)
