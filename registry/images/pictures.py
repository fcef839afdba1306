"""The texts in a picture: chunks of PNG, and fields of EXIF in JPEG, WebP and PNG, where programs say how it was made.

Within bounds, and nothing of what is damaged; no pixel is decoded. Sources: PNG (third edition) section 11, Exif 2.32
section 4.6, Google's container specification of WebP.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from registry.files.source import ByteSource, read_range

MOST_PICTURE: Final = 64 << 20
"""Bytes of a picture that is read."""
_MOST_TEXT: Final = 4 << 20
_MOST_PARTS: Final = 4096  # chunks, segments, or fields
START: Final = 16
"""Bytes by which `picture_kind` knows one."""
_MOST_READ: Final = 256 << 10
_WEBP_PARTS: Final = 16
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_STARTS: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "png"),
    (re.compile(rb"\xff\xd8\xff"), "jpg"),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "webp"),
)
_USER_COMMENT: Final = 0x9286
_EXIF_FIELDS: Final = 0x8769
_TEXTS: Final = (0x010E, 0x010F, 0x0110, _USER_COMMENT)  # also description, make and model, where ComfyUI writes
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 7: 1}


def picture_kind(start: bytes) -> str | None:
    """The ending of a picture that begins with these bytes: png, jpg or webp; None: it is none of these."""
    return next((kind for pattern, kind in _STARTS if pattern.match(start)), None)


def worded_part(source: ByteSource) -> bytes:
    """The part of a large picture in which programs write texts, as a picture for `texts_of`: its beginning.

    A WebP has them behind its points, where the sizes of its parts lead.
    """
    start = bytes(read_range(source, 0, min(_MOST_READ, source.size)))
    if picture_kind(start[:START]) != "webp" or len(start) == source.size:
        return start
    at = 12
    for _ in range(_WEBP_PARTS):
        if at + 8 > source.size:
            break
        kind, size = struct.unpack("<4sI", read_range(source, at, at + 8))
        if kind == b"EXIF":
            return start[:12] + read_range(source, at, min(at + _MOST_READ, source.size))
        at += 8 + size + size % 2
    return start[:12]


def texts_of(data: bytes) -> Iterator[str]:
    """The texts in a picture, within bounds; nothing of what is damaged."""
    left = _MOST_TEXT
    readers = {"png": _of_png, "webp": _of_webp, "jpg": _of_jpeg}
    kind = picture_kind(data[:START])
    for text in () if kind is None else readers[kind](data):
        if len(text) > left:
            return
        left -= len(text)
        yield text


def _of_png(data: bytes) -> Iterator[str]:
    at = len(_PNG)
    for _ in range(_MOST_PARTS):
        if at + 12 > len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + size]
        if len(body) < size or kind == b"IEND":
            return
        at += 12 + size
        rest = body.partition(b"\0")[2]
        if kind == b"tEXt":
            yield rest.decode("latin-1")
        elif kind == b"zTXt" and rest[:1] == b"\0":
            yield _inflated(rest[1:]).decode("latin-1")
        elif kind == b"iTXt" and len(rest) > 2:
            parts = rest[2:].split(b"\0", 2)
            text = parts[2] if len(parts) == 3 else b""
            yield (_inflated(text) if rest[0] else text).decode("utf-8", "replace")
        elif kind == b"eXIf":
            yield from _of_exif(body)


def _inflated(data: bytes) -> bytes:
    """What is compressed; nothing, if it is damaged or longer than all texts may be."""
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, _MOST_TEXT)
    except zlib.error:
        return b""
    return found if inflate.eof else b""


def _of_jpeg(data: bytes) -> Iterator[str]:
    at = 2
    for _ in range(_MOST_PARTS):
        if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] in (0xD9, 0xDA):
            return
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + size]
        if data[at + 1] == 0xE1 and body.startswith(b"Exif\0\0"):
            yield from _of_exif(body[6:])
        elif data[at + 1] == 0xFE:
            yield body.decode("utf-8", "replace")
        at += 2 + max(size, 2)


def _of_webp(data: bytes) -> Iterator[str]:
    at = 12
    for _ in range(_MOST_PARTS):
        if at + 8 > len(data):
            return
        kind, size = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            yield from _of_exif(data[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0"))
        at += 8 + size + size % 2


def _of_exif(data: bytes) -> Iterator[str]:
    """The texts in the fields of EXIF: those of the picture and those below them."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    for tag, body in _fields(data, order, first):
        if tag == _EXIF_FIELDS and len(body) == 4:
            (below,) = struct.unpack(f"{order}I", body)
            yield from (_exif_text(one, text) for one, text in _fields(data, order, below) if one in _TEXTS)
        elif tag in _TEXTS:
            yield _exif_text(tag, body)


def _fields(data: bytes, order: str, at: int) -> Iterator[tuple[int, bytes]]:
    """Tags and values of a directory."""
    if at + 2 > len(data):
        return
    (count,) = struct.unpack_from(f"{order}H", data, at)
    for number in range(min(count, _MOST_PARTS)):
        place = at + 2 + 12 * number
        if place + 12 > len(data):
            return
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
        size = _SIZES.get(kind, 0) * length
        (start,) = struct.unpack_from(f"{order}I", data, place + 8)
        yield tag, data[place + 8 : place + 8 + size] if size <= 4 else data[start : start + size]


def _exif_text(tag: int, body: bytes) -> str:
    if tag == _USER_COMMENT and body[:8] == b"UNICODE\0":
        both = (body[8:].decode(coding, "replace") for coding in ("utf-16-be", "utf-16-le"))
        return max(both, key=lambda text: sum(character < "\x80" for character in text)).rstrip("\0")
    text = body[8:] if tag == _USER_COMMENT and body[:5] in (b"ASCII", b"\0\0\0\0\0") else body
    return text.rstrip(b"\0").decode("utf-8", "replace")
