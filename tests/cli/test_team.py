"""The commands against a real service: serve, login, whoami, tokens, events; and what the settings of a team do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.schemas import Identity, Token, Upgraded
from tests.cli.people import Person
from tests.kit.servers import S3Place
from tests.kit.servers_service import ServiceProcess, clean_environ

StartService = Callable[..., ServiceProcess]


@pytest.fixture
def anna(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path / "anna", capsys)


@pytest.fixture
def keeper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Person:
    return Person(tmp_path / "keeper", capsys)


def token_of(keeper: Person, *options: str) -> str:
    return keeper.run("token", "create", *options).out.strip()


def serve(keeper: Person, start: StartService, *options: str) -> ServiceProcess:
    return start({"XDG_DATA_HOME": str(keeper.home / "data")}, *options)


def test_from_nothing_to_a_working_login(anna: Person, keeper: Person, start_service: StartService) -> None:
    secret = token_of(keeper, "--role", "writer", "--scope", "llama/support", "--name", "anna", "--expires", "90d")
    admin = token_of(keeper, "--role", "admin")
    service = serve(keeper, start_service)

    done = anna.run("login", service.url, "--token", "-", given=f"{secret}\n")
    assert done.out.splitlines()[0] == service.url
    assert "llama/support" in done.out
    assert secret not in done.out + done.err
    assert stat.S_IMODE(anna.kept.stat().st_mode) == 0o600

    # That registry is the default now, and the name is the token's.
    identity = Identity.model_validate_json(anna.run("whoami", "--json").out)
    assert (identity.url, identity.name, identity.role) == (service.url, "anna", "writer")
    assert identity.scopes == ("llama/support",)
    assert identity.version == identity.service_version

    # Rights, by exit code and one sentence.
    refused = anna.run("token", "create", "--role", "reader", code=7)
    assert (refused.out, len(refused.err.splitlines())) == ("", 1)
    assert json.loads(anna.run("gc", "--json", code=7).err)["code"] == "not_allowed"
    assert "No tokens" not in keeper.run("token", "list").err

    # Over HTTP as an admin; --url and REGISTRY_TOKEN win over what is kept.
    over = {"REGISTRY_URL": service.url, "REGISTRY_TOKEN": admin}
    third = anna.run("token", "create", "--role", "reader", settings=over).out.strip()
    tokens = [Token.model_validate(one) for one in json.loads(anna.run("token", "list", "--json", settings=over).out)]
    assert [token.role for token in tokens] == ["reader", "admin", "writer"]
    assert anna.run("token", "revoke", tokens[2].id, settings=over).out == f"{tokens[2].id} revoked\n"
    assert json.loads(anna.run("whoami", "--json", code=7).err)["code"] == "bad_token"

    # Who, what, and from where.
    events = json.loads(anna.run("events", "--json", settings=over).out)
    assert {event["source"] for event in events} == {None, "127.0.0.1"}
    revoked = next(event for event in events if "revoke" in event["action"])
    assert (revoked["token"], revoked["source"]) == (tokens[1].id, "127.0.0.1")
    refusals = [event for event in events if event["actor"] == "anna"]
    assert refusals
    assert len(json.loads(anna.run("events", "--limit", "1", "--json", settings=over).out)) == 1

    # No secret is in the log, in events or in any answer.
    everything = "\n".join([*service.log, *service.printed, json.dumps(events)])
    for one in (secret, admin, third):
        assert one not in everything

    assert anna.run("logout").out == f"{service.url}  logged out\n"
    assert secret not in anna.kept.read_text()
    assert "tok_" not in anna.run("logout", code=3).err


@pytest.mark.slow
def test_a_token_goes_to_its_host_alone_and_one_that_is_unknown_is_not_kept(
    anna: Person, keeper: Person, start_service: StartService
) -> None:
    secret = token_of(keeper, "--role", "reader")
    service = serve(keeper, start_service)
    refused = anna.run("login", service.url, "--token", "reg_wrong", code=7)
    assert len(refused.err.splitlines()) == 1
    assert "reg_wrong" not in refused.err
    assert not anna.kept.exists()

    elsewhere = {"REGISTRY_URL": "http://127.0.0.1:9", "REGISTRY_TOKEN": secret}
    assert "--token -" in anna.run("login", service.url, code=2, settings=elsewhere).err
    refused = anna.run("whoami", "--url", service.url, "--json", code=7, settings=elsewhere)
    assert json.loads(refused.err)["code"] == "bad_token"
    assert anna.run("login", service.url, settings={"REGISTRY_TOKEN": secret}).out.startswith(service.url)
    anna.run("logout")
    assert b"reader" in log_in_on_a_terminal(anna, service.url, secret)
    assert secret in anna.kept.read_text()


def log_in_on_a_terminal(person: Person, url: str, secret: str) -> bytes:
    """Type a secret at the question; all that the terminal shows, which must not be it."""
    parent, child = os.openpty()
    environ = clean_environ({"XDG_CONFIG_HOME": str(person.home / "config"), "TERM": "dumb"})
    command = [sys.executable, "-m", "registry.cli.main", "login", url]
    # No controlling terminal, or the question would go to the terminal of whoever runs the tests.
    with subprocess.Popen(
        command, env=environ, stdin=child, stdout=child, stderr=child, start_new_session=True
    ) as process:
        os.close(child)
        said = b""
        while b"shown): " not in said:
            said += os.read(parent, 4096)
        os.write(parent, secret.encode() + b"\n")
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(parent, 4096):
                said += piece
        assert process.wait(timeout=60) == 0
    os.close(parent)
    assert secret.encode() not in said
    return said


@pytest.mark.slow
def test_an_open_folder_needs_no_token_on_loopback(anna: Person, keeper: Person, start_service: StartService) -> None:
    keeper.run("token", "list", code=3)  # there is nothing yet: serve makes it
    service = serve(keeper, start_service)
    assert "role      admin" in anna.run("login", service.url, "--token", "").out
    assert anna.run("base", "list").err.startswith("No base models in " + service.url)
    # What serve refuses: a port that is taken, an address of another machine, a service.
    port = service.url.rpartition(":")[2]
    assert port in keeper.run("serve", "--port", port, code=1).err
    assert "192.0.2.1" in keeper.run("serve", "--host", "192.0.2.1", "--anonymous", "read", code=1).err
    assert service.url in keeper.run("serve", "--url", service.url, code=2).err
    # Asked to end by Ctrl-C, it ends with 0; its words and its log are on stderr.
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(timeout=60) == 0
    service.home.forget(service.process)
    assert "Traceback" not in "\n".join(service.log)
    assert service.printed == []


@pytest.mark.slow
def test_nobody_is_served_without_tokens_elsewhere(keeper: Person, start_service: StartService) -> None:
    refused = keeper.run("serve", "--host", "0.0.0.0", "--port", "0", code=7)
    assert "registry token create" in refused.err
    assert len(refused.err.splitlines()) == 1
    service = serve(keeper, start_service, "--anonymous", "read")
    assert "role      reader" in keeper.run("whoami", "--url", service.url).out


def test_a_team_in_process(anna: Person, postgres_url: str, s3_store: S3Place) -> None:
    team = {"REGISTRY_DATABASE_URL": postgres_url, "REGISTRY_STORE_URL": s3_store.url, **s3_store.environ}
    # Without tables each command says what to run.
    behind = json.loads(anna.run("tree", "--json", code=1, settings=team).err)
    assert behind["code"] == "schema_older"
    assert "registry db upgrade" in behind["message"]
    made = Upgraded.model_validate_json(anna.run("db", "upgrade", "--json", settings=team).out)
    assert made.before is None
    assert made.after in anna.run("db", "upgrade", settings=team).out
    secret = anna.run("token", "create", "--role", "admin", "--name", "boss", settings=team).out
    assert secret.startswith("reg_")
    assert "boss" in anna.run("token", "list", settings=team).out
    assert "token create" in anna.run("events", settings=team).out
    assert anna.run("fsck", "--deep", settings=team).out.startswith("sound")
    # A folder that is named wins over the team's settings.
    assert anna.run("token", "list", "--url", str(anna.home / "none"), code=3, settings=team).out == ""


def test_an_embedded_folder_is_upgraded_in_place(anna: Person) -> None:
    token_of(anna, "--role", "admin")
    same = Upgraded.model_validate_json(anna.run("db", "upgrade", "--json").out)
    assert same.before == same.after
    assert str(anna.home) in anna.run("db", "upgrade").out
    assert anna.run("db", "upgrade", "--url", "http://127.0.0.1:9", code=2).out == ""


@pytest.mark.slow
def test_a_service_that_is_down_is_one_sentence(anna: Person) -> None:
    for words in (["whoami"], ["tree"], ["login", "http://127.0.0.1:9", "--token", "x"]):
        ended = anna.run(*words, code=1, settings={"REGISTRY_URL": "http://127.0.0.1:9"})
        assert len(ended.err.splitlines()) == 1
        assert "127.0.0.1:9" in ended.err
