"""Who comes in, and what is noted of those who don't."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from registry.app import connect, service_app
from registry.catalogue.team.tokens import create
from registry.http.limits import Limits
from registry.rights import UNLIMITED, Principal
from registry.schemas.protocol import API
from registry.services.local import LocalRegistry
from tests.kit.library import Library, Lines, assert_problem, running
from tests.kit.pages import Visitor


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[LocalRegistry]:
    registry = LocalRegistry.open(tmp_path / "registry")
    yield registry
    registry.close()


def refusals(registry: LocalRegistry) -> list[dict[str, object]]:
    found = [event for event in registry.events(limit=500) if event.action == "refused"]
    return [{"actor": one.actor, "token": one.token, "source": one.source, **one.detail} for one in found]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "bearer x",
        "Basic dXNlcjpwYXNz",
        "Bearer reg_unknown",
        "Bearer " + "x" * 600,
        "Bearer a b",
    ],
)
def test_what_is_no_token_is_refused(service: str, given: str) -> None:
    assert_problem(httpx.get(f"{service}{API}/tree", headers={"Authorization": given}), 401, "bad_token")


def test_the_scheme_is_read_whatever_its_case(service: str, library: Library) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {library.secrets['reader']}"}
        assert httpx.get(f"{service}{API}/tree", headers=headers).status_code == 200


def test_a_revoked_token_is_worthless_at_once(service: str, admin: httpx.Client) -> None:
    made = admin.post("/tokens", json={"role": "reader"}).json()
    headers = {"Authorization": f"Bearer {made['secret']}"}
    assert httpx.get(f"{service}{API}/whoami", headers=headers).json()["token"] == made["token"]["id"]
    assert admin.delete(f"/tokens/{made['token']['id']}").json()["revoked_at"] is not None
    assert_problem(httpx.get(f"{service}{API}/whoami", headers=headers), 401, "bad_token")


def test_an_open_registry_is_closed_by_its_first_token(empty: LocalRegistry) -> None:
    with running(service_app(empty, anonymous="open")) as url:
        assert httpx.get(f"{url}{API}/whoami").json()["role"] == "admin"
        secret = httpx.post(f"{url}{API}/tokens", json={"role": "admin"}).json()["secret"]
        assert_problem(httpx.get(f"{url}{API}/whoami"), 401, "bad_token")
        headers = {"Authorization": f"Bearer {secret}"}
        assert httpx.get(f"{url}{API}/whoami", headers=headers).json()["role"] == "admin"


def test_an_open_registry_answers_only_to_names_of_its_own_machine(empty: LocalRegistry) -> None:
    """A web page can let its name lead here and have a browser ask: the name is what gives it away."""
    with running(service_app(empty, anonymous="open")) as url:
        port = url.rpartition(":")[2]
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}"):
            assert httpx.get(f"{url}{API}/whoami", headers={"Host": host}).status_code == 200
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "10.0.0.1", ""):
            assert_problem(httpx.get(f"{url}{API}/whoami", headers={"Host": host}), 403, "not_allowed")


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
def test_an_open_registry_does_not_take_a_proxy_for_its_own_machine(empty: LocalRegistry, name: str) -> None:
    with running(service_app(empty, anonymous="open")) as url:
        assert_problem(httpx.get(f"{url}{API}/whoami", headers={name: "for=192.0.2.1"}), 403, "not_allowed")
    assert [one["code"] for one in refusals(empty)] == ["not_allowed"]


def test_anonymous_readers_read(empty: LocalRegistry) -> None:
    with running(service_app(empty, anonymous="read")) as url:
        assert httpx.get(f"{url}{API}/whoami").json()["role"] == "reader"
        assert httpx.get(f"{url}{API}/tree").status_code == 200
        assert_problem(httpx.post(f"{url}{API}/gc", json={}), 403, "not_allowed")
        bad = {"Authorization": "Bearer reg_unknown"}
        assert_problem(httpx.get(f"{url}{API}/tree", headers=bad), 401, "bad_token")  # never less than what was said


def test_changes_say_who_and_from_where(library: Library, service: str) -> None:
    headers = library.headers("writer of a")
    answer = httpx.put(f"{service}{API}/tags", json={"ref": "tiny/a", "tag": "best"}, headers=headers)
    assert answer.status_code == 200
    token = httpx.get(f"{service}{API}/whoami", headers=headers).json()["token"]
    event = library.registry.events(limit=1)[0]
    assert (event.action, event.actor, event.token, event.source) == ("tag", "writer of a", token, "127.0.0.1")


def test_refusals_are_events_and_can_not_fill_the_database(empty: LocalRegistry, log: Lines) -> None:
    secret = empty.create_token("writer", name="writer").secret
    with running(service_app(empty)) as url, httpx.Client(base_url=url + API) as client:
        for _ in range(20):
            client.get("/tree")  # without a token: nothing is noted
        assert refusals(empty) == []
        for _ in range(60):
            client.post("/gc", json={}, headers={"Authorization": f"Bearer {secret}"})
    noted = refusals(empty)
    seconds = log.requests[-1]["time"], log.requests[20]["time"]
    longest = (datetime.fromisoformat(seconds[0]) - datetime.fromisoformat(seconds[1])).total_seconds()
    assert 30 <= len(noted) <= min(59, 32 + longest)
    assert (noted[0]["actor"], noted[0]["source"], noted[0]["code"]) == ("writer", "127.0.0.1", "not_allowed")
    assert noted[0]["tried"] == f"POST {API}/gc"
    assert sum(line["status"] == 403 for line in log.requests) == 60
    assert secret not in str(log.lines)


def test_a_token_in_the_form_for_hub_clients_is_taken_everywhere_and_shown_nowhere(
    empty: LocalRegistry, log: Lines
) -> None:
    secret = empty.create_token("reader", name="js").secret
    form = f"hf_{secret}"
    told = ""
    with running(service_app(empty)) as url:
        for token, status in ((form, 200), (f"hf_{form}", 401), ("hf_reg_guessed", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            for place in (f"{API}/whoami", "/hf/api/whoami-v2", "/hf-lora/api/models"):
                answer = httpx.get(f"{url}{place}", headers=headers)
                assert answer.status_code == status, place
                told += answer.text + str(answer.headers)
        with Visitor(url) as browser:
            assert browser.sign_in(form).status_code == 303
            assert browser.sign_in("hf_reg_guessed").status_code == 401
        with closing(connect(url, token=form)) as remote:
            assert remote.whoami().name == "js"
    assert {one["code"] for one in refusals(empty)} == {"bad_token"}
    for word in (secret, "hf_reg_guessed", secret.removeprefix("reg_")):
        assert word not in told + str(refusals(empty)) + str(log.lines)


def test_a_wrong_token_is_noted_and_not_shown(empty: LocalRegistry, log: Lines) -> None:
    with running(service_app(empty)) as url:
        httpx.get(f"{url}{API}/tree", headers={"Authorization": "Bearer reg_guessed"})
    (noted,) = refusals(empty)
    assert (noted["actor"], noted["token"], noted["code"]) == ("unknown", None, "bad_token")
    assert "reg_guessed" not in str(noted) + str(log.lines)


def test_the_log_names_the_token(service: str, library: Library, log: Lines) -> None:
    answer = httpx.get(f"{service}{API}/whoami", headers=library.headers("reader"))
    token = answer.json()["token"]
    assert token is not None
    assert log.of_request(answer.headers["x-request-id"])["token"] == token


def test_forwarded_addresses_are_believed_from_known_proxies_only(service: str, library: Library, log: Lines) -> None:
    headers = {**library.headers("reader"), "X-Forwarded-For": "203.0.113.9"}
    with running(service_app(library.registry), Limits(), trusted_proxies=["127.0.0.0/8"]) as behind_proxy:
        for url, source in ((service, "127.0.0.1"), (behind_proxy, "203.0.113.9")):
            answer = httpx.get(f"{url}{API}/whoami", headers=headers)
            assert log.of_request(answer.headers["x-request-id"])["source"] == source


def test_an_expired_token_is_worthless(library: Library, service: str) -> None:
    deployment = library.registry.deployment
    made = deployment.database.change(
        lambda session: create(session, Principal("test", UNLIMITED), "reader", expires_in=3600)
    )
    from registry.catalogue.database.team_tables import TokenRecord

    def expire(session: object) -> None:
        row = session.get(TokenRecord, made.token.id)  # type: ignore[attr-defined]
        row.expires_at = row.created_at

    headers = {"Authorization": f"Bearer {made.secret}"}
    assert httpx.get(f"{service}{API}/tree", headers=headers).status_code == 200
    deployment.database.change(expire)
    assert_problem(httpx.get(f"{service}{API}/tree", headers=headers), 401, "bad_token")
