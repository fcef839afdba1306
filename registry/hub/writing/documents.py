"""Bodies of what Hub clients write. Fields that are not named are ignored: each version of a client sends others."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from registry.http.payloads import check_depth, check_keys
from registry.http.request.errors import MalformedError


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
