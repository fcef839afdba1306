"""Signing in with a token and out again; errors as pages, with the form of signing in for whom has to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session

from registry.catalogue.team import sessions
from registry.errors import RegistryError
from registry.http.context import Receive, Scope, Send
from registry.http.dependencies import registry_for, service_of
from registry.http.errors import headers_of
from registry.http.origins import prefix_of
from registry.schemas import Schema
from registry.schemas.protocol import API, Problem
from registry.schemas.requests import NoRequest
from registry.web.frame.forms import FormTokens, forget_session, keep_session, kept_of, read_fields, session_of, split
from registry.web.frame.rendering import rendered
from registry.web.frame.visit import (
    HEADERS,
    HTML,
    FormVisit,
    PageRoute,
    PageVisit,
    PostedForm,
    Visit,
    frame_values,
    page_visit,
)

_COMES_BACK: Final = 3  # seconds, after which a browser asks again by itself for what the service was too busy for
_NO_ROUTE: Final = (404, 405)
_PROGRAMS: Final = ("/healthz", "/readyz", "/metrics", API)


def is_for_people(scope: Scope) -> bool:
    """Whether a browser asks, and not for what only programs read."""
    if scope["path"].startswith(_PROGRAMS):
        return False
    accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"")
    return b"text/html" in accepted


def error_page(scope: Scope, problem: Problem, headers: Mapping[str, str]) -> Response:
    """A problem as a page, in the frame that the visitor had: with who is signed in, and where they can go on."""
    request = Request(scope)
    visit: Visit | None = getattr(request.state, "visit", None)
    if visit is None and problem.status in _NO_ROUTE and session_of(request) is not None:
        return _InFrame(problem, headers)
    return _error_page(request, problem, headers, visit)


def _error_page(request: Request, problem: Problem, headers: Mapping[str, str], visit: Visit | None) -> Response:
    signing_in = problem.status == 401
    comes_back = problem.code == "busy" and request.method == "GET"
    tokens, kept = FormTokens(request, ended=signing_in), kept_of(request)
    values = {
        **(frame_values(request.app) if visit is None or signing_in else visit.frame),
        "problem": problem,
        "title": "Sign in" if signing_in else problem.title,
        "form_token": tokens.value,
        "comes_back": comes_back,
        "kept": kept,
        "deleted": getattr(request.state, "deleted", None),
        "next": f"{request.url.path}?{request.url.query}".rstrip("?") if request.method == "GET" else "/",
    }
    every = {**headers_of(problem), **HEADERS, **({"Refresh": str(_COMES_BACK)} if comes_back else {}), **headers}
    template = "sign_in.html" if signing_in else "error.html"
    response = Response(rendered(template, values), status_code=problem.status, headers=every, media_type=HTML)
    if signing_in and session_of(request) is not None:
        forget_session(request, response)
    # A page without a form sets no cookie: a page of another site must not end the forms that are open.
    if signing_in or kept is not None:
        tokens.keep(response)
    return response


class _InFrame(Response):
    """The page of an error before anybody asked who visits: that is looked up in a thread, since it reads rows."""

    def __init__(self, problem: Problem, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=problem.status)
        self._problem, self._more = problem, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        page = await service_of(request).readers.run(self._page, request)
        await page(scope, receive, send)

    def _page(self, request: Request) -> Response:
        visit = None
        with suppress(RegistryError):  # the session has ended, or the registry can't be read: the page stands without
            visit = page_visit(request)
        return _error_page(request, self._problem, self._more, visit)


router = APIRouter(include_in_schema=False, route_class=PageRoute)


class SignIn(Schema):
    """The form of signing in."""

    token: str
    next: str = "/"


@router.get("/sign-in", response_model=None)
def sign_in_page(request: Request) -> Response:
    """The form, also for whom is signed in already."""
    tokens = FormTokens(request)
    values = {
        **frame_values(request.app),
        "problem": None,
        "kept": None,
        "title": "Sign in",
        "form_token": tokens.value,
        "next": "/",
    }
    response = Response(rendered("sign_in.html", values), headers=dict(HEADERS), media_type=HTML)
    tokens.keep(response)
    return response


@router.post("/sign-in", response_model=None)
def sign_in(request: Request, form: PostedForm) -> Response:
    """Open a session for a token, and end the one that this browser had; raises `NotAllowedError` (``bad_token``)."""
    fields, kept = split(form.fields)
    asked = read_fields(SignIn, fields)
    service = service_of(request)
    principal = service.access.of_secret(request, asked.token.strip())
    token, older = principal.token, session_of(request)
    if token is None:
        raise AssertionError("the principal of a secret has a token")

    def open_one(session: Session) -> tuple[str, datetime]:
        if older is not None:
            sessions.close_session(session, older)
        return sessions.open_session(session, token)

    secret, until = service.registry.deployment.database.change(open_one)
    if kept is None:
        response = _to(request, asked.next)
    else:
        visit = Visit(request, registry_for(request, principal), principal, begun=secret)
        response = visit.page("again.html", title="Signed in again", kept=kept)
        response.headers["Cache-Control"] = "no-store"
    keep_session(request, response, secret, until)
    return response


@router.post("/sign-out", response_model=None)
def sign_out(request: Request, form: PostedForm) -> Response:
    """End the session, also on other replicas, and have the browser forget what it cached of pages."""
    form.read(NoRequest)
    secret = session_of(request)
    if secret is not None:
        service_of(request).registry.deployment.database.change(lambda session: sessions.close_session(session, secret))
    response = _to(request, "/sign-in")
    response.headers["Clear-Site-Data"] = '"cache"'  # browsers heed it over https and on this machine
    forget_session(request, response)
    return response


@router.get("/sessions", response_model=None)
def sessions_page(visit: PageVisit) -> Response:
    """The sessions of the token that somebody signed in with."""
    principal = visit.principal
    with visit.registry.deployment.read() as session:
        found, count = sessions.of_token(session, principal)
    return visit.page("sessions.html", title="Sessions", sessions=found, count=count)


class _End(Schema):
    """Which session ends; without one, all others."""

    id: str = Field(default="", max_length=64)


@router.post("/sessions/end", response_model=None)
def end_sessions(visit: FormVisit, form: PostedForm) -> Response:
    """End a session of the same token, or all but this one; does nothing if it has ended."""
    asked = form.read(_End)
    visit.registry.deployment.change(lambda session: sessions.end(session, visit.principal, asked.id or None))
    return visit.go(visit.links("/sessions"))


def _to(request: Request, path: str) -> Response:
    """A redirect to a page of ours, never to another host."""
    inside = quote(path, safe="/@:?=&%+,-._~") if path.startswith("/") and not path.startswith("//") else "/"
    headers = {"Location": f"{prefix_of(request.app)}{inside}", "Cache-Control": "no-store"}
    return Response(status_code=303, headers=headers)
