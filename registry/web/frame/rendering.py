"""Templates of the pages: Jinja2, with everything escaped, and the filters that they write values with.

Characters that nobody sees, among them those that turn the direction of what follows, are shown by their numbers,
wherever a page has them: in names, messages, annotations, cards. The text itself stays as it is, for whoever copies it.
"""

from __future__ import annotations

import json
import re
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
    """A page as HTML, with a mark for each character that nobody sees."""
    return with_marks(_environment().get_template(template).render(values))


_UNSEEN: Final = re.compile(
    "["
    "\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u3164\uffa0"  # soft hyphen, joiners, fillers
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # of no width, and of direction
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # tags, and variants that no emoji has
    "]"
    # Joiners between letters of scripts that need them, or between emoji, are seen by what they do.
    "|[\u200c\u200d](?![^\x00-\u02ff])|(?<![^\x00-\u02ff])[\u200c\u200d]"
)
_MARKUP: Final = re.compile(
    r"""<(title|textarea|option|script|style)\b(?:[^>"']|"[^"]*"|'[^']*')*>.*?</\1>"""  # no element is inside of these
    r"""|</?[a-zA-Z!](?:[^>"']|"[^"]*"|'[^']*')*>""",
    re.DOTALL,
)
_SPOKEN: Final = re.compile(r"""(\s(?:title|alt|aria-label|placeholder)=")([^"]*)""")


def with_marks(page: str) -> str:
    """A page of HTML in which characters that nobody sees are shown by their numbers, such as ``U+202E``.

    In texts each is wrapped in an element of its own, that shows the number beside it and ends what it does to the
    direction; what is copied has the character alone. Titles and names for screen readers have the number instead.
    Values of fields and addresses are left as they are.
    """
    if _UNSEEN.search(page) is None:
        return page
    parts, end = [], 0
    for found in _MARKUP.finditer(page):
        parts += [_UNSEEN.sub(_marked, page[end : found.start()]), _in_markup(found)]
        end = found.end()
    return "".join([*parts, _UNSEEN.sub(_marked, page[end:])])


def _number(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


def _marked(found: re.Match[str]) -> str:
    # Without quotes: wherever it stood, it could end no attribute.
    return f"<span class=unseen data-mark={_number(found)}>{found[0]}</span>"


def _in_markup(found: re.Match[str]) -> str:
    text = found[0]
    if found[1] in {"title", "option"}:
        return _UNSEEN.sub(_number, text)
    if found[1] is not None:
        return text
    return _SPOKEN.sub(lambda one: one[1] + _UNSEEN.sub(_number, one[2]), text)


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
