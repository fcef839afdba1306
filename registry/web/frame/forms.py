"""Forms: what they send, read by a schema; the session and the token that they carry; and what is stored of them.

Unknown fields are refused, empty ones left out.

A session is a row that names a token (decision 51), so revoking the token ends it. Another way of signing in only has
to open such a row. The API takes no cookies: what changes something by them are the forms of these pages alone.

What was written is preserved if a form is not taken, since the session had ended or for another reason. The page that
says so gives it back, to be sent again. If somebody has to sign in first, it goes through the form of signing in, as
hidden fields. Nothing is done with it until it is sent again: so it is enough that a page of ours sent it, be that
older than the session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, Response
from pydantic import ValidationError

from registry.errors import (
    CROSS_SITE,
    AccuracyError,
    ConflictError,
    InvalidAdapterError,
    NotAllowedError,
    NotFoundError,
    RetractedError,
    UsageError,
)
from registry.http.errors import MalformedError
from registry.http.origins import prefix_of, public_address, require_own_page
from registry.schemas import Schema
from registry.schemas.form import is_plain


def cookie_name(request: Request, what: str = "session") -> str:
    """The name of a cookie: browsers send those of one host to all of its ports, so it is another one for each."""
    return f"registry-{what}-{hashlib.sha256(public_address(request).encode()).hexdigest()[:8]}"


def session_of(request: Request) -> str | None:
    """The secret of the session that a browser has; None if nobody signed in."""
    return request.cookies.get(cookie_name(request))


def keep_session(request: Request, response: Response, secret: str, until: datetime) -> None:
    """Let the browser keep a session until its end."""
    _set(request, response, "session", secret, max(0, int((until - datetime.now(UTC)).total_seconds())))


def forget_session(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    _set(request, response, "session", "", 0)


class FormTokens:
    """The token that forms of a browser carry, which no page of another site knows.

    It is made of the session's secret; if nobody signed in, or the session has ended, of a random cookie. ``begun``
    is the secret of a session that begins with this response.
    """

    def __init__(self, request: Request, *, ended: bool = False, begun: str | None = None) -> None:
        self._request = request
        session = begun or (None if ended else session_of(request))
        visitor = request.cookies.get(cookie_name(request, "visitor"))
        self._new = None if session or visitor else secrets.token_urlsafe(24)
        self._of = session or visitor or self._new or ""

    @property
    def value(self) -> str:
        """The token that forms carry."""
        return hashlib.sha256(b"form\0" + self._of.encode("utf-8", "surrogatepass")).hexdigest()

    def keep(self, response: Response) -> None:
        """Let the browser keep the cookie that the token was made of, if that is new."""
        if self._new is not None:
            _set(self._request, response, "visitor", self._new, None)

    def check(self, given: str | None) -> None:
        """Refuse a form that no page of this session sent.

        Raises:
            NotAllowedError: its page is older than the session.
        """
        if self._new is not None or not hmac.compare_digest((given or "").encode(), self.value.encode()):
            raise NotAllowedError(
                "This form belongs to an earlier session, or cookies are off: reload its page and send it again."
            )


def require_own_form(request: Request) -> None:
    """Refuse a form that no page of ours sent.

    Raises:
        NotAllowedError: ``cross_site``, it came from another site.
    """
    require_own_page(request)  # the guard lets those through that show a token
    if "origin" not in request.headers:
        raise NotAllowedError(
            "This form was sent from an unknown page, and only forms of this registry's own pages are accepted: "
            "open its page and send it again, with a browser that says where a form comes from.",
            code=CROSS_SITE,
        )


def _set(request: Request, response: Response, what: str, value: str, seconds: int | None) -> None:
    secure = request.url.scheme == "https" or public_address(request).startswith("https:")
    response.set_cookie(
        cookie_name(request, what),
        value,
        max_age=seconds,
        path=prefix_of(request.app) or "/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


S = TypeVar("S", bound=Schema)
REFUSED: Final = (AccuracyError, ConflictError, InvalidAdapterError, NotFoundError, RetractedError, UsageError)
"""Why what a form asks for is not done, whoever asks: its page says so, and keeps what was written.

What is not allowed is an error page: so it is recorded as refused.
"""


def read_fields(schema: type[S], fields: Iterable[tuple[str, str]]) -> S:
    """The request that some fields of texts make; what the schema has several of may be given more than once.

    Raises:
        MalformedError: one is unknown, given twice, or not what the schema expects.
    """
    given: dict[str, object] = {}
    several: dict[str, list[str]] = {
        name: [] for name, info in schema.model_fields.items() if get_origin(info.annotation) is tuple
    }
    for name, value in fields:
        if name in given:
            raise MalformedError(f"The field {name[:64]!r} is given more than once, once is expected.")
        if not is_plain(value):
            raise MalformedError(f"The field {name[:64]!r} contains an invalid character, plain text is expected.")
        if name in several and value.strip():
            several[name].append(value)
        elif value.strip():
            given[name] = value
    return request_of(schema, {**given, **{name: tuple(values) for name, values in several.items() if values}})


def request_of(schema: type[S], given: Mapping[str, object]) -> S:
    """A request with these values; raises `MalformedError` if one is not what the schema expects."""
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise MalformedError(f"The field {where} is not as expected: {str(first['msg']).lower()}.") from None


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form as browsers send it; raises `MalformedError`."""
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise MalformedError("The form can't be read: fields in the encoding of HTML forms are expected.") from None


Fields = tuple[tuple[str, str], ...]
_TO: Final = "kept to"
_PREFIX: Final = "kept."
_CHOSEN: Final = frozenset(
    {"base", "do", "expected", "form", "id", "kind", "pattern", "published", "remove", "to", "undo", "wanted"}
)
"""Fields that people don't write, but buttons and pages."""
_LONG: Final = 100  # characters, from which on a field gets several lines


@dataclass(frozen=True)
class Kept:
    """A form that was not taken.

    Args:
        to: the path that it was sent to, without the prefix of the pages.
        fields: without the token of the form.
    """

    to: str
    fields: Fields

    @property
    def hidden(self) -> Fields:
        """It, as fields of another form."""
        return ((_TO, self.to), *((_PREFIX + name, value) for name, value in self.fields))

    @property
    def written(self) -> Fields:
        """The fields that people write."""
        return tuple((name, value) for name, value in self.fields if name not in _CHOSEN)

    @property
    def chosen(self) -> Fields:
        """The others."""
        return tuple((name, value) for name, value in self.fields if name in _CHOSEN)

    @staticmethod
    def is_long(value: str) -> bool:
        """Whether a field has several lines."""
        return len(value) > _LONG or "\n" in value


def split(fields: Iterable[tuple[str, str]]) -> tuple[Fields, Kept | None]:
    """The fields of the form of signing in, and the form that waits for that."""
    own, kept, to = [], [], ""
    for name, value in fields:
        if name == _TO:
            to = value
        elif name.startswith(_PREFIX):
            kept.append((name.removeprefix(_PREFIX), value))
        else:
            own.append((name, value))
    inside = to.startswith("/") and not to.startswith("//")
    return tuple(own), Kept(to, tuple(kept)) if kept and inside else None


def keep(request: Request, fields: Fields) -> None:
    """Keep what a page of ours sent, in case that it is not taken; what is for signing in holds a secret."""
    path = request.scope["path"]
    request.state.kept = split(fields)[1] if path == "/sign-in" else Kept(path, fields)


def kept_of(request: Request) -> Kept | None:
    """What was sent, if somebody wrote any of it."""
    found: Kept | None = getattr(request.state, "kept", None)
    return found if found is not None and any(value.strip() for _, value in found.written) else None
