"""The body of a commit: a JSON document a line, in which a file's bytes are one long base64 string.

Lines are as long as files, so the string is decoded and hashed while it arrives, into a file of its own; only the rest
of a line is kept in memory.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import UnavailableError
from registry.folders.local_files import telling_unusable
from registry.http.payloads import check_depth, check_keys
from registry.http.request.errors import MalformedError
from registry.services.pushing.parts import Spooled

MOST_LINE: Final = 1 << 20
"""Bytes of a line without its content."""
MOST_LINES: Final = 1001
"""A header and a thousand operations."""

_CONTENT: Final = re.compile(rb'"content"\s{0,16}:\s{0,16}"')  # in a string its quotes would be escaped
_QUARTET: Final = 4  # base64 digits that are three bytes


@dataclass(frozen=True)
class Line:
    """A document of the body, and the bytes that were its ``content``."""

    document: dict[str, Any]
    content: Spooled | None


def lines(chunks: Iterable[bytes], folder: Path) -> Iterator[Line]:
    """The documents of a body; contents are spooled into files in ``folder``.

    Raises:
        MalformedError: a line is no JSON object, or a content no base64.
        UnavailableError: ``too_large``, there are too many lines, or one of them is too long beside its content; or
            the contents can't be written.
    """
    reader = _Reader(chunks, folder)
    for count in range(MOST_LINES + 1):
        line = reader.line(count)
        if line is None:
            return
        if count == MOST_LINES:
            raise UnavailableError(
                f"The commit has more than {MOST_LINES - 1} operations: send it in smaller ones.", code="too_large"
            )
        yield line


class _Reader:
    """What has arrived and was not looked at yet."""

    def __init__(self, chunks: Iterable[bytes], folder: Path) -> None:
        self._chunks = iter(chunks)
        self._folder = folder
        self._buffer = b""
        self._ended = False

    def line(self, number: int) -> Line | None:
        """The next line that is not empty; None: there is none."""
        while True:
            text, content = self._text(number)
            if text.strip():
                return Line(_document(text), content)
            if self._ended and not self._buffer:
                return None

    def _text(self, number: int) -> tuple[bytes, Spooled | None]:
        text, content = b"", None
        while True:
            end = self._buffer.find(b"\n")
            mark = _CONTENT.search(self._buffer, 0, len(self._buffer) if end < 0 else end)
            if mark is not None:
                if content is not None:
                    raise MalformedError("The commit is malformed: a line has two contents, one is expected.")
                text += self._buffer[: mark.end()]
                self._buffer = self._buffer[mark.end() :]
                content = self._content(self._folder / f"content-{number}")
                text += b'"'
            elif end >= 0:
                text, self._buffer = text + self._buffer[:end], self._buffer[end + 1 :]
                return text, content
            elif len(text) + len(self._buffer) > MOST_LINE:
                raise UnavailableError(
                    f"A line of the commit has more than {MOST_LINE} bytes beside its content.", code="too_large"
                )
            elif not self._more():
                text, self._buffer = text + self._buffer, b""
                return text, content

    def _content(self, file: Path) -> Spooled:
        """Decode up to the next quote."""
        digest, size, rest = hashlib.sha256(), 0, b""
        with telling_unusable(self._folder), file.open("wb") as out:
            while True:
                end = self._buffer.find(b'"')
                piece = rest + (self._buffer if end < 0 else self._buffer[:end])
                # The last digits are kept back until it is clear whether padding at their end is that of the whole.
                whole = len(piece) if end >= 0 else max(0, len(piece) - 1) // _QUARTET * _QUARTET
                data = _decoded(piece[:whole], last=end >= 0)
                rest = piece[whole:]
                digest.update(data)
                size += out.write(data)
                if end >= 0:
                    self._buffer = self._buffer[end + 1 :]
                    return Spooled(file, size, f"sha256:{digest.hexdigest()}")
                self._buffer = b""
                if not self._more():
                    raise MalformedError("The commit is malformed: it ends within the content of a file.")

    def _more(self) -> bool:
        """Wait for the next chunk; False: that was all."""
        chunk = next(self._chunks, None)
        if chunk is None:
            self._ended = True
            return False
        self._buffer += chunk
        return True


def _decoded(text: bytes, *, last: bool) -> bytes:
    if last or b"=" not in text:  # padding ends the text
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            pass
    raise MalformedError("The commit is malformed: the content of a file is no base64.")


def _document(text: bytes) -> dict[str, Any]:
    check_depth(text)
    check_keys(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MalformedError("The commit is malformed: each line has to be a JSON object.")
    return found
