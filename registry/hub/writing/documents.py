"""Bodies of what Hub clients write. Fields that are not named are ignored: each version of a client sends others.

A commit is a JSON document a line, in which a file's bytes are one long base64 string. Lines are as long as files, so
the string is decoded and hashed while it arrives, into a file of its own; only the rest of a line is held in memory.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.errors import UnavailableError
from registry.folders.local_files import telling_unusable
from registry.http.errors import MalformedError
from registry.http.payloads import check_depth, check_keys
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
        UnavailableError: ``too_large``, the lines are too many, or one of them is too long beside its content; or
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
        """The next line that is not empty; None: no more come."""
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
                # The last digits are held back until it is clear whether padding at their end is that of the whole.
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


class Document(BaseModel):
    """A body, or a part of one."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class NewRepo(Document):
    """``create_repo``."""

    name: str
    organization: str | None = None
    type: str | None = None
    private: bool | None = None
    visibility: str | None = None
    files: tuple[Any, ...] | None = Field(None, strict=False)  # of the first commit


class RepoSettings(Document):
    """``update_repo_settings``."""

    private: bool | None = None
    visibility: str | None = None
    gated: bool | str | None = None


class CardText(Document):
    """A README.md that is about to be pushed."""

    content: str


class Announced(Document):
    """A file that is about to be pushed."""

    path: str = Field(max_length=1024)
    size: int = Field(ge=0)


class Announcement(Document):
    """All files of a commit, before it."""

    files: tuple[Announced, ...] = Field(max_length=1000, strict=False)


class NewTag(Document):
    """``create_tag``."""

    tag: str


class Header(Document):
    """The first line of a commit."""

    summary: str = ""
    description: str | None = None
    parentCommit: str | None = None  # noqa: N815 - the name of the protocol


class PushedFile(Document):
    """A file in a commit, without its content."""

    path: str = Field(max_length=1024)
    encoding: str = "base64"


class LargePushed(Document):
    """A file of a commit whose bytes went by LFS before; without a size, a copy of one that is in a repo."""

    path: str = Field(max_length=1024)
    oid: str = Field(pattern="^[0-9a-f]{64}$")
    size: int | None = Field(None, ge=0)


class LargeObject(Document):
    """Bytes that are to go by LFS."""

    oid: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class LargeObjects(Document):
    """The body of an LFS batch."""

    operation: str
    objects: tuple[LargeObject, ...] = Field(max_length=256, strict=False)


D = TypeVar("D", bound=Document)


async def _body(request: Request) -> bytes:
    return await request.body()


class Body(Generic[D]):
    """A dependency: the body as a document, whatever the client calls its type."""

    def __init__(self, schema: type[D]) -> None:
        self.schema = schema

    def __call__(self, data: Annotated[bytes, Depends(_body)]) -> D:
        """Parse the body."""
        check_depth(data)
        check_keys(data)
        try:
            return self.schema.model_validate_json(data)
        except ValidationError as error:
            raise malformed(error) from None


def parsed(schema: type[D], value: Any) -> D:
    """A part of a body; raises `MalformedError`."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise malformed(error) from None


def malformed(error: ValidationError) -> MalformedError:
    """The error for a body that is not as clients send it."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(["body", *map(str, first["loc"])])
    return MalformedError(f"The request is malformed at {where}: {first['msg'].lower()}.")
