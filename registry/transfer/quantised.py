"""The notice for an adapter that was trained on quantised weights: on the unquantised base it behaves differently."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_MARKS: Final = re.compile(
    r"(?:^|[-_./])(?:bnb|[48]-?bits?|int[48]|fp8|nf4|gptq|awq|aqlm|hqq|gguf|exl2|quanto|w[48]a(?:8|16))(?:$|[-_./])"
)
_NOTICE: Final = (
    "The adapter was trained on quantised weights ({}): on the unquantised base it is a slightly different function."
)
_SAID: Final = re.compile(re.escape(_NOTICE).replace(re.escape("{}"), r"([ -~]{1,200})"))


def quantised_notices(trained_on: str | None, sign: str | None) -> tuple[str, ...]:
    """The notice, by the name of what it was trained on or a ``sign`` in the folder (`registry.folders.quantised`)."""
    if trained_on and _MARKS.search(trained_on.lower().rstrip("/")):
        return (_by_name(trained_on),)
    return (_NOTICE.format(sign),) if sign else ()


def _by_name(trained_on: str) -> str:
    return (
        f"The adapter was trained on {trained_on}, a quantised copy: on the unquantised base it is a slightly "
        "different function."
    )


def sign_in(notices: Iterable[str]) -> str | None:
    """The sign in a revision's notices: for a copy, since there is no folder to look into."""
    found = (_SAID.fullmatch(notice) for notice in notices)
    return next((match[1] for match in found if match), None)
