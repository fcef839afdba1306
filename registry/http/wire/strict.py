"""Strict HTTP/1.1 parsing: ambiguous framing is refused, against request smuggling (RFC 9112).

`h11` is lenient, and a proxy in front of the service may frame the same bytes differently.
"""

from __future__ import annotations

import re
from typing import Any, Final

import h11
from h11._receivebuffer import ReceiveBuffer

# Lines end with CR LF and nothing else, are never continued, and hold no control characters but a tab.
_NO_LINE: Final = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"content-length:[ \t]*(.*?)[ \t]*", re.IGNORECASE)
_WHY: Final = {
    b"\n": "a line ends with a bare LF",
    b"\r": "a line holds a bare CR",
    b"\r\n ": "a header is continued on a second line",
    b"\r\n\t": "a header is continued on a second line",
}


class StrictConnection(h11.Connection):
    """The server's end of a connection."""

    def __init__(self, most: int) -> None:
        super().__init__(h11.SERVER, most)
        self._receive_buffer = _StrictBuffer()

    def next_event(self) -> Any:
        """The next event; see `h11.Connection.next_event`.

        Raises:
            h11.RemoteProtocolError: the client gets 400, and the connection is closed.
        """
        event = super().next_event()
        why = _why_ambiguous(event) if isinstance(event, h11.Request) else None
        if why is not None:
            self._process_error(self.their_role)
            raise h11.RemoteProtocolError(why)
        return event


def _why_ambiguous(request: h11.Request) -> str | None:
    """Why a head can be framed in two ways."""
    names = {name for name, _ in request.headers}
    if not request.http_version.startswith(b"1."):
        return f"it is in HTTP/{request.http_version.decode('ascii')}, which is not supported here"
    if b"transfer-encoding" not in names:
        return None
    if b"content-length" in names:
        return "it has both Content-Length and Transfer-Encoding"
    return "it has Transfer-Encoding, which HTTP/1.0 does not know" if request.http_version == b"1.0" else None


class _StrictBuffer(ReceiveBuffer):
    """The receive buffer, split into lines strictly. Its errors reach the client through `h11`."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        if self._data[:2] == b"\r\n":
            self._extract(2)
            return []
        searched = max(0, self._multiple_lines_search - len(_END))
        end = self._data.find(_END, searched)
        known = len(self._data) if end == -1 else end + len(_END)
        _refuse_what_is_no_line(self._data, searched, known)
        if end == -1:
            self._multiple_lines_search = known
            return None
        lines = self._extract(known)[: -len(_END)].split(b"\r\n")
        _refuse_several_lengths(lines)
        return lines

    def maybe_extract_next_line(self) -> bytearray | None:
        searched, end = max(0, self._next_line_search - 1), self._data.find(b"\r\n")
        _refuse_what_is_no_line(self._data, searched, len(self._data) if end == -1 else end + 2)
        line = super().maybe_extract_next_line()
        if line is not None and line[:-2].endswith((b" ", b"\t")):
            raise h11.LocalProtocolError("a chunk's size is followed by blanks")
        return line


def _refuse_what_is_no_line(data: bytearray, start: int, stop: int) -> None:
    found = _NO_LINE.search(data, start, stop)
    if found is not None:
        raise h11.LocalProtocolError(_WHY.get(bytes(found[0]), f"it holds the control character 0x{found[0].hex()}"))


def _refuse_several_lengths(lines: list[bytearray]) -> None:
    lengths = [match[1] for line in lines if (match := _LENGTH.fullmatch(line))]
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise h11.LocalProtocolError("Content-Length is not one number")
