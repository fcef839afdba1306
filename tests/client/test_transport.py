"""Talking to a service: what is tried again, who gets the token, and what people are told when there is no registry."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from registry.client import errors as retries
from registry.client.errors import RetryPolicy, retry_after
from registry.client.remote import RemoteRegistry
from registry.errors import (
    CODES,
    ConflictError,
    NotAllowedError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UnavailableError,
    UsageError,
)
from registry.folders.staging import FetchCache
from registry.schemas import Tree
from tests.client.strange import Script, StrangeServer, problem, response, strange_server

QUICK = RetryPolicy(known=60.0, met=60.0, unknown=60.0, first=0.001, most=0.01)  # to try again, and not to wait
EMPTY_TREE = response("200 OK", Tree(roots=()).model_dump_json().encode(), "Content-Type: application/json")
HTML = b"<!doctype html><title>Log in</title>"


def remote(url: str, folder: Path, *, token: str | None = None, retry: RetryPolicy = QUICK) -> RemoteRegistry:
    return RemoteRegistry(url, token, cache=FetchCache(folder / "cache"), retry=retry)


Failing = Callable[..., tuple[RegistryError, StrangeServer]]


@pytest.fixture
def failing(tmp_path: Path) -> Failing:
    """The error of `tree` at a server with a script."""

    def fail(script: Script, *, retry: RetryPolicy = QUICK) -> tuple[RegistryError, StrangeServer]:
        with strange_server(script) as server:
            registry = remote(server.url, tmp_path, token="secret", retry=retry)
            with pytest.raises(RegistryError) as refused:
                registry.tree()
            registry.close()
        assert str(refused.value).endswith(".")
        assert "\n" not in str(refused.value)
        assert "secret" not in str(refused.value)
        return refused.value, server

    return fail


IMPATIENT = RetryPolicy(known=0.0, met=0.0, unknown=0.0)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (response("200 OK", HTML, "Content-Type: text/html", ours=False), "not_a_registry", "a web page"),
        (response("403 Forbidden", HTML, "Content-Type: text/html", ours=False), "not_a_registry", "HTTP 403"),
        (response("200 OK", b"{}", "Content-Type: application/json", ours=False), "not_a_registry", "application/json"),
        (
            response("502 Bad Gateway", HTML, "Content-Type: text/html", ours=False),
            "unavailable",
            "a proxy in front of it",
        ),
        (response("413 Content Too Large", HTML, ours=False), "too_large", "not accept requests of this size"),
        (response("301 Moved", b"", "Location: https://other.example/", ours=False), "not_a_registry", "other.example"),
        (response("200 OK", b'{"leaves": []}'), "other_version", "9.9.9"),
        (response("200 OK", b"not json"), "other_version", "can't read"),
        (response("404 Not Found", b"lost"), "unavailable", "HTTP 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unavailable", "was lost"),
        (b"", "unavailable", "was lost"),
    ],
    ids=[
        "login page",
        "forbidden page",
        "other json",
        "gateway",
        "too large",
        "moved",
        "fields",
        "text",
        "bare",
        "ssh",
        "gone",
    ],
)
def test_what_is_no_registry_is_told_in_one_sentence(failing: Failing, answer: bytes, code: str, words: str) -> None:
    error, _ = failing(lambda _request: answer, retry=IMPATIENT)
    assert isinstance(error, UnavailableError)
    assert error.code == code
    assert words in str(error)
    assert "http://127.0.0.1:" in str(error)


@pytest.mark.parametrize(
    ("protocol", "advice"), [("5", "upgrade adapter-registry on this machine"), ("1", "its operator")]
)
def test_another_protocol_says_which_side_to_upgrade(failing: Failing, protocol: str, advice: str) -> None:
    answer = EMPTY_TREE.replace(b"X-Registry-Protocol: 4", f"X-Registry-Protocol: {protocol}".encode())
    error, server = failing(lambda _request: answer)
    assert error.code == "other_version"
    assert "9.9.9" in str(error)
    assert advice in str(error)
    assert len(server.requests) == 1


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    registry = remote(url, tmp_path, retry=RetryPolicy(unknown=0.05, first=0.001))
    with pytest.raises(UnavailableError, match="can't be reached") as refused:
        registry.tree()
    assert refused.value.code == "unavailable"
    assert url in str(refused.value)
    registry.close()


def test_a_registry_that_is_there_and_busy_is_waited_for_at_once(tmp_path: Path) -> None:
    answers = iter([BUSY.replace(b"Retry-After: 0", b"Retry-After: 1"), EMPTY_TREE])
    with strange_server(lambda _request: next(answers)) as server:
        registry = remote(server.url, tmp_path, retry=RetryPolicy(met=30.0, unknown=0.05, first=0.001))
        assert registry.tree().roots == ()
        registry.close()
        assert len(server.requests) == 2


def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    registry = remote("http://registry.invalid", tmp_path, retry=IMPATIENT)
    with pytest.raises(UnavailableError, match=r"http://registry\.invalid can't be reached"):
        registry.tree()
    registry.close()


def test_plain_http_where_tls_is_expected(tmp_path: Path) -> None:
    with strange_server(lambda _request: response("400 Bad Request", ours=False)) as server:
        registry = remote(server.url.replace("http:", "https:"), tmp_path, retry=IMPATIENT)
        with pytest.raises(UnavailableError, match="http or https"):
            registry.tree()
        registry.close()


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    with strange_server(lambda _request: None) as server:
        registry = remote(server.url, tmp_path, retry=replace(IMPATIENT, answer=0.1))
        with pytest.raises(UnavailableError, match="takes too long") as refused:
            registry.subtree("net")
        assert refused.value.code == "too_slow"
        registry.close()


@pytest.mark.parametrize(
    ("status", "kind", "code", "expected"),
    [
        ("404 Not Found", "NotFoundError", "not_found", NotFoundError),
        ("410 Gone", "RetractedError", "retracted", RetractedError),
        ("409 Conflict", "ConflictError", "parent_mismatch", ConflictError),
        ("401 Unauthorized", "NotAllowedError", "bad_token", NotAllowedError),
        ("400 Bad Request", "UsageError", "bad_name", UsageError),
    ],
)
def test_problems_are_the_errors_they_would_be_in_process(
    failing: Failing, status: str, kind: str, code: str, expected: type[RegistryError]
) -> None:
    detail = "This is so, because of that."
    answer = problem(status, kind=kind, code=code, detail=detail)
    error, server = failing(lambda _request: answer)
    assert type(error) is expected
    assert (error.code, str(error)) == (code, detail)
    assert len(server.requests) == 1


def test_problems_of_later_versions_are_understood_as_far_as_they_can_be(failing: Failing) -> None:
    answer = problem("418 Teapot", kind="TeapotError", code="short_and_stout", detail="It is a teapot.")
    error, _ = failing(lambda _request: answer)
    assert type(error) is UnavailableError
    assert (error.code, str(error)) == ("unavailable", "It is a teapot.")
    assert error.code in CODES


BUSY = problem(
    "503 Service Unavailable", kind="UnavailableError", code="busy", detail="Busy.", headers=("Retry-After: 0",)
)


@pytest.mark.parametrize(
    "moment",
    [BUSY, response("502 Bad Gateway", HTML, ours=False), response("429 Too Many", ours=False), b"", EMPTY_TREE[:-3]],
    ids=["busy", "gateway", "too many", "closed", "cut"],
)
def test_a_bad_moment_is_waited_for(tmp_path: Path, moment: bytes) -> None:
    with strange_server(lambda request: EMPTY_TREE if request.number > 2 else moment) as server:
        registry = remote(server.url, tmp_path)
        assert registry.tree().roots == ()
        assert len(server.requests) == 3
        registry.close()


def test_what_does_not_pass_is_not_waited_for(failing: Failing) -> None:
    answer = problem("503 Service Unavailable", kind="UnavailableError", code="numerics", detail="Another CPU.")
    error, server = failing(lambda _request: answer)
    assert error.code == "numerics"
    assert len(server.requests) == 1


def test_patience_ends(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()  # a clock that goes on whenever it is looked at
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: 0.01 * next(ticks)))
    short = RetryPolicy(known=0.2, met=0.2, unknown=0.2, first=0.01, most=0.05)
    error, server = failing(lambda _request: BUSY, retry=short)
    assert error.code == "busy"
    assert len(server.requests) > 2


def test_a_longer_wait_than_there_is_patience_for_is_not_begun(failing: Failing) -> None:
    answer = BUSY.replace(b"Retry-After: 0", b"Retry-After: 3600")
    error, server = failing(lambda _request: answer)
    assert error.code == "busy"
    assert len(server.requests) == 1


def test_what_was_sent_once_is_not_sent_twice_unless_that_is_the_same(tmp_path: Path) -> None:
    """A token or a deletion whose answer was lost may have happened."""
    conflict = problem("409 Conflict", kind="ConflictError", code="protected_tag", detail="No.")
    with strange_server(lambda request: b"" if request.number <= 4 else conflict) as server:
        registry = remote(server.url, tmp_path)
        for change in (
            lambda: registry.create_token("reader"),
            lambda: registry.delete("net/one@1"),
            lambda: registry.untag("net/one", "prod"),
        ):
            sent = len(server.requests)
            with pytest.raises(UnavailableError):
                change()
            assert len(server.requests) == sent + 1
        with pytest.raises(ConflictError):
            registry.tag("net/one@1", "prod")
        assert len(server.requests) == 5
        registry.close()


def test_the_token_is_not_taken_along_to_another_address(tmp_path: Path) -> None:
    with strange_server(lambda _request: EMPTY_TREE) as other:
        moved = response("307 Temporary Redirect", b"", f"Location: {other.url}/api/v1/tree", ours=False)
        with strange_server(lambda _request: moved) as server:
            registry = remote(server.url, tmp_path, token="secret")
            with pytest.raises(UnavailableError, match="if the registry is there, give that address"):
                registry.tree()
            assert server.requests[0].headers["authorization"] == "Bearer secret"
            assert other.requests == []
            registry.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https://user:secret@host",
        "http://host/?token=secret",
        "ftp://host",
        "http://host:port",
        "http://a b",
        "http://a..b",
        f"http://{'a' * 64}.test",
        "http://xn--a.test",
        "http://256.1.1.1",
        "https://user:secret@a..b",
        "https://registry.team/#secret",
        "https://user:secret@host:port",
    ],
)
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError) as refused:
        remote(url, tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("token", ["", "a b", "ä", "a\nb"])
def test_tokens_that_do_not_fit_into_a_header(tmp_path: Path, token: str) -> None:
    with pytest.raises(UsageError, match="token is malformed"):
        remote("http://127.0.0.1:1", tmp_path, token=token)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("120", 120.0), ("", None), ("soon", None), ("-5", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}) == seconds


def test_broken_characters_are_refused_before_they_travel(tmp_path: Path) -> None:
    registry = remote("http://127.0.0.1:1", tmp_path)
    with pytest.raises(UsageError, match="invalid character"):
        registry.show("net/\ud800")
    registry.close()
