"""Proxies and certificates that the environment names and that can't be used: one sentence with the variable's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from registry.client.transport import Transport
from registry.errors import RegistryError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ALL_PROXY", "socks5://proxy.test:1080", "missing_package"),
        ("https_proxy", "socks5h://user:secret@proxy.test", "missing_package"),
        ("HTTP_PROXY", "ftp://user:secret@proxy.test", "usage"),
        ("HTTPS_PROXY", "user:secret@proxy.test:port", "usage"),
        ("NO_PROXY", "[::1],fd00::/8", "usage"),
        ("no_proxy", "::1/128,10.0.0.0/8", "usage"),
        ("SSL_CERT_FILE", "/nonexistent/authorities.pem", "usage"),
        ("SSL_CERT_FILE", __file__, "usage"),
    ],
)
def test_what_cannot_be_used(monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RegistryError) as refused:
        Transport("http://127.0.0.1:1", None)
    assert refused.value.code == code
    assert str(refused.value).startswith(f"{name} ")
    assert str(refused.value).endswith(".")
    assert "secret" not in str(refused.value)


def test_the_variable_that_is_wrong_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "[::1]")
    with pytest.raises(RegistryError, match=r"^NO_PROXY "):
        Transport("http://127.0.0.1:1", None)


def test_of_two_places_of_certificates_the_one_in_use_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/authorities.pem")
    with pytest.raises(RegistryError, match=r"^SSL_CERT_FILE is '/nonexistent"):
        Transport("http://127.0.0.1:1", None)


@pytest.mark.parametrize("value", ["localhost,127.0.0.1,::1,.test,10.0.0.0/8", "*"])
def test_ordinary_ones_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", value)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    Transport("http://127.0.0.1:1", None).close()
