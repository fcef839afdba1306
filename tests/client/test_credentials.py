"""Tokens kept on this machine: for their owner alone, and for one host each."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.client.addresses import FILE, Credentials
from registry.errors import NotAllowedError, NotFoundError, UsageError


@pytest.fixture
def kept(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "config" / "adapter-registry")


def test_a_token_is_for_one_host_and_scheme(kept: Credentials) -> None:
    kept.keep("https://registry.team/", "one")
    assert kept.token("https://REGISTRY.team:443/prefix") == "one"
    for other in ("http://registry.team", "https://registry.team:8443", "https://registry.team.evil", "https://team"):
        assert kept.token(other) is None
    assert kept.default_url() == "https://registry.team"


def test_the_last_login_is_the_default_and_tokens_stay(kept: Credentials) -> None:
    kept.keep("https://one", "1")
    kept.keep("https://two", "2")
    assert (kept.default_url(), kept.token("https://one"), kept.token("https://two")) == ("https://two", "1", "2")
    kept.keep("https://two", None)  # an open service
    assert kept.token("https://two") is None
    assert kept.forget("https://one") == "https://one"
    assert (kept.default_url(), kept.token("https://one")) == ("https://two", None)
    assert kept.forget(None) == "https://two"
    assert kept.default_url() is None
    with pytest.raises(NotFoundError, match="login"):
        kept.forget(None)
    with pytest.raises(NotFoundError, match="https://one"):
        kept.forget("https://one")


def test_only_the_owner_can_read_what_is_kept(kept: Credentials) -> None:
    before = os.umask(0)
    try:
        kept.keep("https://registry.team", "secret")
    finally:
        os.umask(before)
    file = kept.folder / FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
    assert [entry.name for entry in kept.folder.iterdir()] == [FILE]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_use_is_refused(kept: Credentials, mode: int) -> None:
    kept.keep("https://registry.team", "secret")
    (kept.folder / FILE).chmod(mode)
    with pytest.raises(NotAllowedError, match="chmod 600") as refused:
        kept.token("https://registry.team")
    assert "secret" not in str(refused.value)
    with pytest.raises(NotAllowedError):
        kept.keep("https://other", "another")  # it would look as if all was well


@pytest.mark.parametrize("text", ["", "[]", '{"tokens": {"https://registry.team": 7}}', '{"token": "secret"}'])
def test_a_file_that_is_something_else_is_refused(kept: Credentials, text: str) -> None:
    kept.keep("https://registry.team", "secret")
    (kept.folder / FILE).write_text(text)
    with pytest.raises(UsageError, match="log in again") as refused:
        kept.default_url()
    assert "secret" not in str(refused.value)


def test_logins_at_the_same_time_do_not_lose_each_other(kept: Credentials) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: kept.keep(f"https://host{number}", str(number)), range(16)))
    assert [kept.token(f"https://host{number}") for number in range(16)] == [str(number) for number in range(16)]
    assert len(json.loads((kept.folder / FILE).read_text())["tokens"]) == 16
