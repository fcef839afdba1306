"""Who looks at a page: the cookie of a session, and the token that every form of a page carries.

A session is a row that names a token (decision 51), so revoking the token ends it. Another way of signing in only has
to open such a row. The API takes no cookies: what changes something by them are the forms of these pages alone.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

from fastapi import Request, Response

from registry.errors import CROSS_SITE, NotAllowedError
from registry.http.addresses import prefix_of, public_address
from registry.http.origins import require_own_page


def cookie_name(request: Request, what: str = "session") -> str:
    """The name of a cookie: browsers send those of one host to all of its ports, so it is another one for each."""
    return f"registry-{what}-{hashlib.sha256(public_address(request).encode()).hexdigest()[:8]}"


def session_of(request: Request) -> str | None:
    """The secret of the session that a browser has; None where nobody signed in."""
    return request.cookies.get(cookie_name(request))


def keep_session(request: Request, response: Response, secret: str, until: datetime) -> None:
    """Let the browser keep a session until its end."""
    _set(request, response, "session", secret, max(0, int((until - datetime.now(UTC)).total_seconds())))


def forget_session(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    _set(request, response, "session", "", 0)


class FormTokens:
    """The token that forms of a browser carry, which no page of another site knows.

    It is made of the session's secret; where nobody signed in, or the session has ended, of a random cookie. ``begun``
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
