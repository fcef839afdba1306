"""What the guard bears: machines that are not where they were, and answers that never end."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from threading import Event
from typing import Any, Final

import anyio
import pytest

from registry.errors import UnavailableError
from registry.outgoing.guard import Bounds, Guard
from registry.outgoing.networks import Networks
from tests.kit.odd_server import OddServer, Talk, answer, resolving

LOCAL: Final = Networks(["127.0.0.1", "::1"])
BOUNDS: Final = Bounds(size=1000, head=100, total=100)
HUB: Final = "hub.test, which a test names,"
# Of the name hub.test, from 2020 until 2126: made for this test, and trusted by nothing else.
CERTIFICATE: Final = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1rr3dOcRzritEL/v
xYF53xLOdbf0A3Muu4SBF4/UKmGhRANCAARcU3cEWWnWCz5HYk47aVXMtB735CRn
mkHqoWk8m8g5fm56GcA0xHHtcuaumMWxtsyi6vtlycziVwUioMnql/zX
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkjCCATigAwIBAgIUT2xNf2JX7QUzVHw70vYF7JFuglswCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIaHViLnRlc3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyNjAxMDEw
MDAwMDBaMBMxETAPBgNVBAMMCGh1Yi50ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEXFN3BFlp1gs+R2JOO2lVzLQe9+QkZ5pB6qFpPJvIOX5uehnANMRx7XLm
rpjFsbbMour7ZcnM4lcFIqDJ6pf816NoMGYwHQYDVR0OBBYEFHYrvBg+dycSctjF
DbV0AnXfjWlcMB8GA1UdIwQYMBaAFHYrvBg+dycSctjFDbV0AnXfjWlcMA8GA1Ud
EwEB/wQFMAMBAf8wEwYDVR0RBAwwCoIIaHViLnRlc3QwCgYIKoZIzj0EAwIDSAAw
RQIgNP+B8W04zxp4bQhSdOhT1NRtM0MCxYWRw8SXD8uhm+ICIQD9iLKYa1z3ftvp
ghD5fmV8CHa7zCykJS+DSulDfVbczA==
-----END CERTIFICATE-----
"""


def get(url: str, networks: Networks = LOCAL, bounds: Bounds = BOUNDS, **more: Any) -> tuple[int, bytes]:
    """Status and body of what a guard gets."""
    return anyio.run(lambda: _get(Guard(HUB, networks), url, bounds, **more))


async def _get(guard: Guard, url: str, bounds: Bounds = BOUNDS, who: str = "who", **more: Any) -> tuple[int, bytes]:
    async with guard.asking("GET", url, who=who, bounds=bounds, headers={}, **more) as found:
        return found.status, await found.read()


def refused(url: str, match: str, networks: Networks = LOCAL, bounds: Bounds = BOUNDS, **more: Any) -> None:
    with pytest.raises(UnavailableError, match=match) as caught:
        get(url, networks, bounds, **more)
    assert HUB in str(caught.value)


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with OddServer(lambda _: [answer(200, body=b"here")]) as server:
        yield server


def test_a_name_is_looked_up_once_and_pinned(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment later it means another machine, which listens at the same port of another address."""
    asked = resolving(monkeypatch, {"hub.test": ["127.0.0.1", "127.0.0.2"]})
    assert get(f"http://hub.test:{odd.port}/x") == (200, b"here")
    assert asked == ["hub.test"]
    assert f"Host: hub.test:{odd.port}\r\n".lower() in odd.seen[0].lower()
    refused(f"http://hub.test:{odd.port}/x", r"may not be asked: hub.test is 127.0.0.2 \(loopback\)")
    assert len(odd.seen) == 1


def test_each_redirect_is_judged_again(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one to the same name; and those that are not wanted are not followed."""
    odd.talk = lambda _: [answer(302, "Location: /again", "Set-Cookie: a=b; Path=/")]
    resolving(monkeypatch, {"hub.test": ["127.0.0.1", "127.0.0.1", "169.254.169.254"]})
    refused(f"http://hub.test:{odd.port}/x", "169.254.169.254 .link-local", follows=lambda _: True)
    assert [head.split()[1] for head in odd.seen] == ["/x", "/again"]
    assert not any("cookie" in head.lower() for head in odd.seen)
    resolving(monkeypatch, {"hub.test": ["127.0.0.1"]})
    assert get(f"http://hub.test:{odd.port}/x")[0] == 302
    assert len(odd.seen) == 3
    refused(f"http://hub.test:{odd.port}/x", "in a circle", follows=lambda _: True)


def test_the_next_address_is_tried(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"hub.test": ["127.0.0.1,127.0.0.2,127.0.0.3"]})
    networks = Networks(["127.0.0.2", "127.0.0.1"])
    with OddServer(lambda _: []) as other:
        free = other.port
    refused(f"http://hub.test:{free}/", "can't be reached", networks)
    resolving(monkeypatch, {"hub.test": ["127.0.0.2,127.0.0.1"]})
    assert get(f"http://hub.test:{odd.port}/", networks) == (200, b"here")


def test_a_certificate_is_that_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the connection goes to a number."""
    resolving(monkeypatch, {"hub.test": ["127.0.0.1"], "other.test": ["127.0.0.1"]})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "hub.pem")
        file.write_text(CERTIFICATE)
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(file)
        guard = Guard(HUB, LOCAL)
        guard.__dict__["_tls"] = ssl.create_default_context(cafile=file)
    with OddServer(lambda _: [answer(200, body=b"here")], tls=server) as odd:
        assert anyio.run(_get, guard, f"https://hub.test:{odd.port}/") == (200, b"here")
        for host in ("other.test", "127.0.0.1"):
            with pytest.raises(UnavailableError, match="can't be reached"):
                anyio.run(_get, guard, f"https://{host}:{odd.port}/")


def test_by_a_number_of_version_6() -> None:
    with OddServer(lambda _: [answer(200, body=b"here")], host="::1") as odd:
        assert get(f"http://[::1]:{odd.port}/") == (200, b"here")
        assert f"host: [::1]:{odd.port}\r\n" in odd.seen[0].lower()
        refused(f"http://[::1]:{odd.port}/", "may not be asked", Networks())


def test_by_a_proxy(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks names up, and it is not asked for numbers of what is closed, nor for what a redirect leads to there."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", odd.url)
    assert get("http://nowhere.test:81/x", Networks()) == (200, b"here")
    assert odd.seen[0].startswith("GET http://nowhere.test:81/x HTTP/1.1\r\n")
    refused("http://169.254.169.254/x", "may not be asked", Networks())
    odd.talk = lambda _: [answer(302, "Location: http://0x7f.1/x")]
    refused("http://nowhere.test/x", "may not be asked", Networks(), follows=lambda _: True)
    assert len(odd.seen) == 2
    monkeypatch.setenv("HTTP_PROXY", "gopher://user:hunter2@proxy.test")
    refused("http://nowhere.test/x", "the proxy that its environment names can't be used", Networks())


def test_a_name_that_nobody_knows() -> None:
    refused("http://nobody.invalid/x", "its name is not known")


def test_authorities_that_can_not_be_read(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> ssl.SSLContext:
        return ssl.create_default_context(cafile="/nonexistent/authorities.pem")

    monkeypatch.setattr("httpx.create_ssl_context", missing)
    refused(odd.url, "SSL_CERT_FILE")


@pytest.fixture
def never() -> Iterator[Event]:
    """It is set when the test is over."""
    found = Event()
    yield found
    found.set()


def test_what_never_ends(odd: OddServer, never: Event) -> None:
    def endless(*pieces: bytes, then: bytes = b"") -> Talk:
        def talk(_: str) -> Iterator[bytes]:
            yield from pieces
            if then:
                yield from repeat(then)
            never.wait(100)

        return talk

    chunked = answer(200, "Transfer-Encoding: chunked")
    chunk = b"40\r\n" + b"x" * 64 + b"\r\n"

    def dribbled(_: str) -> Iterator[bytes]:
        yield chunked
        while not never.wait(0.01):
            yield b"1\r\nx\r\n"

    late, soon = replace(BOUNDS, grace=0.2, rate=1e9), replace(BOUNDS, total=0.3)
    for talk, bounds, match in (
        (endless(chunked, then=chunk), replace(BOUNDS, total=20), "more than 1000 bytes"),
        (dribbled, soon, "in time"),
        (dribbled, late, "less than 1000000000 bytes a second"),
        (endless(chunked, chunk), late, "less than"),
        (endless(answer(200, "Content-Length: 1000"), b"x"), late, "less than"),
        (endless(b"HTTP/1.1 200 Odd\r\n", then=b"X-More: and more\r\n"), BOUNDS, "can't be reached"),
        (endless(b"HTTP/1.1 200 Odd\r\n"), replace(BOUNDS, head=0.3), "in time"),
        (endless(then=b"HTTP/1.1 100 Continue\r\n\r\n"), replace(BOUNDS, head=0.3), "in time"),
        (endless(), replace(BOUNDS, head=0.3), "in time"),
        (endless(b"HTTP/1.1 200 Odd\r\nX: ", then=b"y"), BOUNDS, "can't be reached"),
    ):
        odd.talk = talk
        refused(odd.url, match, bounds=bounds)


def test_turns(odd: OddServer, never: Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A principal has a share, all have the rest; whoever waits in vain, leaves, or fails leaves nothing behind."""
    monkeypatch.setattr("registry.outgoing.guard._AT_ONCE", 3)
    monkeypatch.setattr("registry.outgoing.guard._OF_ONE", 2)
    monkeypatch.setattr("registry.outgoing.guard._WAIT", 0.05)

    def slow(head: str) -> Iterator[bytes]:
        yield answer(200, "Content-Length: 2") + b"x"
        if "/slow" in head:
            never.wait(100)
        yield b"y"

    odd.talk = slow

    async def asks() -> None:
        guard = Guard(HUB, LOCAL)

        async def busy(who: str, match: str) -> None:
            with pytest.raises(UnavailableError, match=match) as caught:
                await _get(guard, odd.url, who=who)
            assert caught.value.code == "busy"

        def held(who: str) -> Any:
            return guard.asking("GET", f"{odd.url}/slow", who=who, bounds=BOUNDS, headers={})

        async with held("one"), held("one"):
            await busy("one", "This token has too many")
            assert await _get(guard, odd.url, who="two") == (200, b"xy")
            async with held("two"):
                await busy("two", "The registry has too many")
                await busy("three", "The registry has too many")
        assert guard.under_way == 0
        with pytest.raises(UnavailableError):
            await _get(guard, "http://nobody.invalid/")
        with anyio.move_on_after(0.1):
            async with held("one") as found:
                await found.read()
        assert (guard.under_way, guard._turns_of) == (0, {})

    anyio.run(asks)
