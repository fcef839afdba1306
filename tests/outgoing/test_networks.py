"""Which addresses are open, in every way that one can be written."""

from __future__ import annotations

import ipaddress

import anyio
import pytest

from registry.outgoing.networks import ClosedError, Networks, proxy_for, target_of
from tests.kit.odd_server import resolving

CLOSED = [
    "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1", "2001:10::1", "2001:db8::1",
    "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff::1", "fe80::1", "febf::1",
    "fec0::1", "ff02::1",
]  # fmt: skip
OPEN = [
    "1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.255.255", "100.128.0.1", "128.0.0.1", "169.253.255.255",
    "172.15.255.255", "172.32.0.1", "192.167.255.255", "198.17.255.255", "198.20.0.1", "223.255.255.255",
    "2606:4700::1", "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::101:101",
]  # fmt: skip


@pytest.mark.parametrize("address", CLOSED)
def test_closed(address: str) -> None:
    ip = ipaddress.ip_address(address)
    assert Networks().closed(ip) is not None
    assert Networks([address]).closed(ip) is None
    assert Networks(["172.20.0.0/16", "fd12:3456::/32"]).closed(ip) is not None


@pytest.mark.parametrize("address", OPEN)
def test_open(address: str) -> None:
    assert Networks().closed(ipaddress.ip_address(address)) is None


def test_what_is_listed_is_listed_in_all_its_forms() -> None:
    listed = Networks(["10.0.0.0/8"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203"):
        assert listed.closed(ipaddress.ip_address(address)) is None
    assert listed.closed(ipaddress.ip_address("::ffff:127.0.0.1")) is not None


NUMBERS = [
    "127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[64:ff9b::7f00:1]", "localhost", "LOCALHOST", "localhost.", "0", "127.0.0.1.",
]  # fmt: skip


@pytest.mark.parametrize("host", NUMBERS)
def test_no_spelling_is_a_way_in(host: str) -> None:
    target = target_of(f"http://{host}:80/")
    with pytest.raises((ClosedError, OSError)):
        anyio.run(Networks().addresses, target)


@pytest.mark.parametrize(
    ("url", "host", "said"),
    [
        ("http://127.0.0.1:9/x", "127.0.0.1", True), ("http://localhost:9", "127.0.0.1", True),
        ("http://localhost:9", "127.0.0.2", False), ("http://127.0.0.1:9/x", "127.0.0.2", False),
        ("http://[::1]:9/", "::1", True), ("https://hub.example", "127.0.0.1", False),
    ],
)  # fmt: skip
def test_an_address_in_a_setting_is_listed(url: str, host: str, said: bool) -> None:
    assert (Networks(named=(url,)).closed(ipaddress.ip_address(host)) is None) == said


def test_of_several_addresses_the_open_ones_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, {"hub.test": ["10.0.0.1,1.1.1.1,127.0.0.1,1.0.0.1", "10.0.0.1,127.0.0.1"]})
    target = target_of("https://hub.test/")
    assert anyio.run(Networks().addresses, target) == ["1.1.1.1", "1.0.0.1"]
    with pytest.raises(ClosedError, match=r"hub.test is 10.0.0.1 \(private\), 127.0.0.1 \(loopback\)"):
        anyio.run(Networks().addresses, target)


@pytest.mark.parametrize(
    "url",
    [
        "", "hub.example", "//hub.example", "file:///etc/passwd", "ftp://h/", "http://", "http:///x", "http://:80/",
        "http://h:0/", "http://h:65536/", "http://h:-1/", "http://h:x/", "http://[::1/", "http://[fe80::1%25lo]/",
        "http://u@h/", "http://u:p@h/", "http://h h/", "http://h\t/", "http://a..b/", f"http://{'a' * 64}.example/",
        "http://0177.0.0.1/", "http://①②⑦.0.0.1/", "http://%31/",
    ],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"it is|it holds|its host"):
        target_of(url)


def test_what_is_one() -> None:
    assert target_of("HTTPS://Hub.Example/x").origin == ("https", "hub.example", 443)
    assert target_of("http://[::1]:9").netloc == "[::1]:9"
    assert target_of("https://hüb.example:8443").origin == ("https", "xn--hb-xka.example", 8443)


def test_a_proxy_is_the_operators_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for(target_of("https://hub.example")) is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,127.0.0.1")
    assert proxy_for(target_of("https://hub.example")) == "http://proxy.example:3128"
    assert proxy_for(target_of("http://hub.example")) is None
    assert proxy_for(target_of("https://a.inside.example")) is None
    Networks().check_behind_proxy(target_of("https://hub.example"))
    for host in [*NUMBERS, "10.0.0.1", "x.localhost", "0x", "1.2.3"]:
        with pytest.raises(ClosedError):
            Networks().check_behind_proxy(target_of(f"https://{host}/"))
    Networks(["10.0.0.1"]).check_behind_proxy(target_of("https://10.0.0.1/"))
