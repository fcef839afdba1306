"""JSON from strangers, read strictly.

Parsers disagree about duplicate keys, NaN, numbers without bound and deep nesting; a file that two programs read
differently has no meaning that can be checked. So all of these are refused (RFC 8259 leaves them open, RFC 7493 closes
most of them).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn

from registry.errors import RegistryError

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 20
"""Digits of an integer: enough for 64 bits."""
MAX_SETTINGS: Final = 65_536
"""Lists and objects of a document of settings (brackets within strings count too): more cost time without meaning."""
_SHOWN: Final = 200
_UNKEPT: Final = re.compile("[\x00\ud800-\udfff]")
"""What UTF-8 can't write (lone surrogates) and databases can't keep (NUL)."""


def shown(value: object) -> str:
    """A publisher's value as a message shows it: quoted, printable, cut to 200 characters."""
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


_TOLD: Final = 8


def instead_of_file(start: bytes) -> str | None:
    """What lies where a file should be, and what to do, by its first 8 bytes; None: nothing that is known."""
    if start.startswith(b"version "):
        return "is a pointer of Git LFS, and not the file that it stands for: `git lfs pull` fetches that"
    if start[:_TOLD].lower() in {b"<!doctyp", b"<html>\n<", b"<html>\r\n", b"<html><h", b"<html la"}:
        return "is a page of HTML, as a download that was refused leaves it: download the file once more"
    return None


def parse(
    data: bytes, *, what: str, limit: int, error: type[RegistryError], code: str, brackets: int | None = None
) -> Any:
    """Read one JSON document.

    Args:
        data: the document, UTF-8 without a byte order mark.
        what: how to name the document in a message.
        limit: largest size in bytes.
        error: class of the error to raise, with ``code``.
        code: code of the error.
        brackets: how many lists and objects it may open, None for any number.

    Raises:
        RegistryError: of class ``error``, for anything but a strict document of at most 64 levels.
    """

    def refuse(why: str) -> NoReturn:
        raise error(f"{what} {why}.", code=code)

    if (other := instead_of_file(data)) is not None:
        refuse(other)
    if len(data) > limit:
        refuse(f"has {len(data)} bytes, at most {limit} are allowed")
    if brackets is not None and (opened := data.count(b"[") + data.count(b"{")) > brackets:
        refuse(f"opens {opened} lists and objects, at most {brackets} are allowed")
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as problem:
        refuse(f"is not UTF-8 (byte {problem.start})")
    try:
        document = _decoder(refuse).decode(text)
    except json.JSONDecodeError as problem:
        refuse(f"is not valid JSON: {problem.msg} at line {problem.lineno}, column {problem.colno}")
    except RecursionError:
        refuse(f"is nested deeper than {MAX_DEPTH} levels")
    _check_depth(document, refuse)
    if "\\u" in text or "\x00" in text:
        _check_strings(document, refuse)
    return document


def _decoder(refuse: Callable[[str], NoReturn]) -> json.JSONDecoder:
    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    refuse(f"gives the key {shown(key)} twice, so that programs would read it differently")
                seen.add(key)
        return document

    def integer_of(digits: str) -> int:
        if digits == "-0":
            refuse("holds the integer -0, which some programs read as 0 and others as a fraction")
        if len(digits) > MAX_DIGITS:
            refuse(f"holds the integer {shown(digits)}, more than {MAX_DIGITS} digits")
        return int(digits)

    def float_of(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            refuse(f"holds the number {shown(digits)}, which is out of range")
        return value

    def constant_of(name: str) -> NoReturn:
        refuse(f"holds {name}, which is not JSON")

    return json.JSONDecoder(
        object_pairs_hook=object_of, parse_int=integer_of, parse_float=float_of, parse_constant=constant_of
    )


def _check_depth(document: Any, refuse: Callable[[str], NoReturn]) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            for child in value.values() if type(value) is dict else value if type(value) is list else ():
                if type(child) is list or type(child) is dict:
                    below.append(child)  # noqa: PERF401 (a comprehension for each small container takes twice the time)
        if not below:
            return
        level = below
    refuse(f"is nested deeper than {MAX_DEPTH} levels")


def _check_strings(document: Any, refuse: Callable[[str], NoReturn]) -> None:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, str) and _UNKEPT.search(value):
            refuse(f"holds the string {shown(value)}, which contains a NUL or half of a surrogate pair")
