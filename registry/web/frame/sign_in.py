"""Signing in with a token, and signing out."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from registry.catalogue.team import sessions
from registry.http.addresses import prefix_of
from registry.http.dependencies import service_of
from registry.http.reads import ReadRoute
from registry.schemas import Schema
from registry.schemas.requests import NoRequest
from registry.web.frame.environment import rendered
from registry.web.frame.signed_in import FormTokens, forget_session, keep_session, session_of
from registry.web.frame.visit import HEADERS, HTML, PostedForm, frame_values

router = APIRouter(include_in_schema=False, route_class=ReadRoute)


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
        "told": None,
        "title": "Sign in",
        "form_token": tokens.value,
        "next": "/",
    }
    response = Response(rendered("sign_in.html", values), headers=dict(HEADERS), media_type=HTML)
    tokens.keep(response)
    return response


@router.post("/sign-in", response_model=None)
def sign_in(request: Request, form: PostedForm) -> Response:
    """Open a session for a token; raises `NotAllowedError` (``bad_token``)."""
    asked = form.read(SignIn)
    service = service_of(request)
    principal = service.access.of_secret(request, asked.token.strip())
    token = principal.token
    if token is None:
        raise AssertionError("the principal of a secret has a token")
    database = service.registry.deployment.database
    secret, until = database.change(lambda session: sessions.open_session(session, token))
    response = _to(request, asked.next)
    keep_session(request, response, secret, until)
    return response


@router.post("/sign-out", response_model=None)
def sign_out(request: Request, form: PostedForm) -> Response:
    """End the session, also on other replicas."""
    form.read(NoRequest)
    secret = session_of(request)
    if secret is not None:
        service_of(request).registry.deployment.database.change(lambda session: sessions.close_session(session, secret))
    response = _to(request, "/sign-in")
    forget_session(request, response)
    return response


def _to(request: Request, path: str) -> Response:
    """A redirect to a page of ours, never to another host."""
    inside = quote(path, safe="/@:?=&%+,-._~") if path.startswith("/") and not path.startswith("//") else "/"
    headers = {"Location": f"{prefix_of(request.app)}{inside}", "Cache-Control": "no-store"}
    return Response(status_code=303, headers=headers)
