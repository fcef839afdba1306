"""Templates of the pages: Jinja2, with everything escaped, and the filters that they write values with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from registry import figures
from registry.plots.drawing import environment_of
from registry.schemas.parents import known_by, level_of


def rendered(template: str, values: Mapping[str, Any]) -> str:
    """A page as HTML."""
    return _environment().get_template(template).render(values)


def when(time: datetime | None, missing: str = "never") -> str:
    """A time, in UTC; the module of the pages writes it in the reader's zone."""
    if time is None:
        return missing
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        time.astimezone(UTC).isoformat(timespec="seconds"), figures.moment(time), figures.moment(time)
    )


def ago(time: datetime | None, missing: str = "never") -> str:
    """How long ago a time was, with the time itself as its title."""
    if time is None:
        return missing
    passed = figures.age(time, datetime.now(UTC))
    text = passed if passed == "just now" else f"{passed} ago"
    return Markup('<time datetime="{}" title="{} UTC" data-keep>{}</time>').format(
        time.astimezone(UTC).isoformat(timespec="seconds"), figures.moment(time), text
    )


def share(value: float) -> str:
    """A share in percent, three digits: ``0.12 %``."""
    return f"{value * 100:.3g} %"


def as_text(value: object) -> str:
    """A value of a configuration, an annotation or an event, in short."""
    if isinstance(value, list | tuple) and value:
        return ", ".join(map(as_text, value[:9])) + (f" and {len(value) - 9} more" if len(value) > 9 else "")
    if isinstance(value, float):
        return figures.number(value)
    text = value if isinstance(value, str) else json.dumps(value) if value else "none"
    text = figures.short_digest(text) if text.startswith("sha256:") else figures.clean(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST: Final = 300  # characters of a value
_FILTERS: Final = {
    "as_text": as_text,
    "when": when,
    "ago": ago,
    "size": figures.size,
    "amount": figures.amount,
    "number": figures.number,
    "counted": figures.counted,
    "digest": figures.short_digest,
    "short_url": figures.short_url,
    "level": level_of,
    "known_by": known_by,
    "share": share,
}


@cache
def _environment() -> Environment:
    made = environment_of("registry.web")
    made.filters.update(_FILTERS)
    return made
