"""Allowed values of a field of a LoRA configuration: rules that the variants are put together from.

A rule is a function of (field, value) that returns the value in the form in which it is stored, or raises. A field
without a rule is unknown, and refused unless it is null, false or empty: new kinds of LoRA come with new fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from registry.errors import InvalidAdapterError
from registry.files.strict_json import shown

MAX_RANK: Final = 65_536
MAX_LIST: Final = 65_536
MAX_TEXT: Final = 4096

Rule = Callable[[str, Any], Any]


def fault(field: str, value: object, why: str, code: str = "bad_config") -> InvalidAdapterError:
    """The error for one field of the configuration."""
    return InvalidAdapterError(f"adapter_config.json: {field} is {shown(value)}; {why}", code=code)


def says_something(value: object) -> bool:
    """Whether a value differs from null, false and everything empty."""
    return value is not None and value is not False and value not in ("", [], {})


def any_value(_: str, value: Any) -> Any:
    """The field does not change the weights."""
    return value


def boolean(field: str, value: Any) -> bool:
    """True or false; null is false."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise fault(field, value, "expected true or false.")


def text(field: str, value: Any) -> str | None:
    """A string of a length that a name or a place may have, or null."""
    if value is None or (isinstance(value, str) and len(value) <= MAX_TEXT):
        return value
    raise fault(field, value, f"expected a string of at most {MAX_TEXT} characters.")


def rank(field: str, value: Any) -> int:
    """A rank."""
    return count(field, value, limit=MAX_RANK)


def count(field: str, value: Any, limit: int = MAX_RANK) -> int:
    """A number of things, at least one."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit:
        return value
    raise fault(field, value, f"expected an integer from 1 to {limit}.")


def number(field: str, value: Any) -> float:
    """A finite number of any sign; an integer stays one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise fault(field, value, "expected a finite number.")


def fraction(field: str, value: Any) -> Any:
    """A number that only training uses, or null."""
    return value if value is None else number(field, value)


def strings(field: str, value: Any) -> tuple[str, ...]:
    """A list of strings; null is empty."""
    if value is None:
        return ()
    if isinstance(value, list) and len(value) <= MAX_LIST and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise fault(field, value, f"expected a list of at most {MAX_LIST} strings.")


def names(field: str, value: Any) -> tuple[str, ...]:
    """A list of names that are not empty; null is empty."""
    found = strings(field, value)
    if "" in found:
        raise fault(field, value, "an empty name matches everything. Name the modules.")
    return found


def module_names(field: str, value: Any) -> tuple[str, ...] | str | None:
    """A list of module names, a regular expression, or null."""
    return value if value is None or isinstance(value, str) else strings(field, value)


def one_or_more_strings(field: str, value: Any) -> tuple[str, ...]:
    """A string or a list of them."""
    if isinstance(value, str):
        return (value,) if value else ()
    return strings(field, value)


def layer_numbers(field: str, value: Any) -> tuple[int, ...]:
    """A layer number or a list of them; null is empty."""
    found = [value] if isinstance(value, int) else [] if value is None else value
    if isinstance(found, list) and len(found) <= MAX_LIST and all(type(item) is int for item in found):
        return tuple(found)
    raise fault(field, value, "expected a layer number or a list of them.")


def patterns(of: Rule) -> Rule:
    """A map from regular expressions to values of that rule; null is empty."""

    def rule(field: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_LIST:
            raise fault(field, value, f"expected a map of at most {MAX_LIST} patterns.")
        return {key: of(f"{field}[{shown(key)}]", item) for key, item in value.items()}

    return rule


def nothing(code: str, why: str) -> Rule:
    """The field must not be set (null, false or empty)."""

    def rule(field: str, value: Any) -> None:
        if says_something(value):
            raise fault(field, value, why, code)

    return rule
