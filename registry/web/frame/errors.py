"""Errors as pages: the code and the sentence of the API, and for whom has to sign in, the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import Request, Response

from registry.http.request.context import Scope
from registry.http.request.errors import headers_of
from registry.schemas.protocol import API, Problem
from registry.web.frame.environment import rendered
from registry.web.frame.kept import kept_of
from registry.web.frame.signed_in import FormTokens, forget_session, session_of
from registry.web.frame.visit import HEADERS, HTML, frame_values

_COMES_BACK: Final = 3  # seconds, after which a browser asks again by itself for what the service was too busy for
_PROGRAMS: Final = ("/healthz", "/readyz", "/metrics", API)


def is_for_people(scope: Scope) -> bool:
    """Whether a browser asks, and not for what only programs read."""
    if scope["path"].startswith(_PROGRAMS):
        return False
    accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accepted


def error_page(scope: Scope, told: Problem, headers: Mapping[str, str]) -> Response:
    """A problem as a page."""
    request = Request(scope)
    signing_in = told.status == 401
    comes_back = told.code == "busy" and request.method == "GET"
    tokens, kept = FormTokens(request, ended=signing_in), kept_of(request)
    values = {
        **frame_values(request.app),
        "told": told,
        "title": "Sign in" if signing_in else told.title,
        "form_token": tokens.value,
        "comes_back": comes_back,
        "kept": kept,
        "next": f"{request.url.path}?{request.url.query}".rstrip("?") if request.method == "GET" else "/",
    }
    every = {**headers_of(told), **HEADERS, **({"Refresh": str(_COMES_BACK)} if comes_back else {}), **headers}
    template = "sign_in.html" if signing_in else "error.html"
    response = Response(rendered(template, values), status_code=told.status, headers=every, media_type=HTML)
    if signing_in and session_of(request) is not None:
        forget_session(request, response)
    # A page without a form sets no cookie: a page of another site must not end the forms that are open.
    if signing_in or kept is not None:
        tokens.keep(response)
    return response
