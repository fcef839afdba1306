"""Forms that no page of ours sent change nothing: of every route that changes something, however they are sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.routing import APIRoute

from registry.web.routes import PAGES as FACE
from tests.kit.gallery_story import LLAMA
from tests.kit.pages import Visitor
from tests.web.conftest import Visitors
from tests.web.kit import Site

ROUTES = sorted(
    {
        route.path
        for router in FACE.routers
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    }
)
FILLED = {"{reference:path}": f"{LLAMA}/support@5", "{path:path}": f"{LLAMA}/support", "{base}": LLAMA}
FIELDS = {
    "tag": "forged",
    "message": "forged",
    "name": "forged",
    "value": "1",
    "reason": "forged",
    "text": "forged",
    "role": "admin",
    "pattern": "forged",
    "token": "forged",
}
"""What any of them would take."""


def filled(route: str) -> str:
    for name, value in FILLED.items():
        route = route.replace(name, value)
    return route if "{" not in route else route.partition("{")[0] + "none"


def changes(site: Site) -> list[tuple[str, str]]:
    """What was changed so far; refusals are noted too, and change nothing."""
    return [(one.action, one.subject) for one in site.registry.events(limit=1000) if one.action != "refused"]


@pytest.fixture
def unchanged(site: Site) -> Iterator[None]:
    before = changes(site)
    sessions = site.registry.whoami()
    yield
    assert changes(site) == before
    assert site.registry.whoami() == sessions


def _foreign(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, origin="https://evil.example").status_code


def _no_origin(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, origin=None).status_code


def _null_origin(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, origin="null").status_code


def _origin_like_ours(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, origin=f"{admin.address}.evil.example").status_code


def _no_token(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, token=None).status_code


def _other_session(admin: Visitor, other: Visitor, path: str) -> int:
    return admin.send(path, FIELDS, token=other.token(other.get("/sign-in"))).status_code


def _in_the_query(admin: Visitor, other: Visitor, path: str) -> int:
    token = admin.token(admin.get("/sign-in"))
    headers = {"Origin": admin.address, "Content-Type": "application/x-www-form-urlencoded"}
    return admin.client.post(path, params={"form_token": token, **FIELDS}, headers=headers).status_code


def _as_text(admin: Visitor, other: Visitor, path: str) -> int:
    """What another site may send without being asked first."""
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    return admin.client.post(path, content="message=forged", headers=headers).status_code


ATTEMPTS: list[Callable[[Visitor, Visitor, str], int]] = [
    _foreign, _no_origin, _null_origin, _origin_like_ours, _no_token, _other_session, _in_the_query, _as_text,
]  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.usefixtures("unchanged")
def test_a_forged_form_is_refused(visitors: Visitors, route: str, attempt: Callable[..., int]) -> None:
    assert attempt(visitors["admin"], visitors["writer"], filled(route)) in (403, 422)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.usefixtures("unchanged")
def test_reading_the_address_of_a_form_changes_nothing(visitors: Visitors, route: str) -> None:
    answer = visitors["admin"].get(filled(route), params=FIELDS)
    assert answer.status_code in (200, 404, 405, 422)
    head = visitors["admin"].client.head(filled(route))
    assert head.status_code in (200, 404, 405, 422)
