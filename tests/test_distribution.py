"""What the client's distribution says, seen from a process that has all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry import app, distribution
from registry.client.tensor_core import missing, needed
from registry.errors import RegistryError, UnavailableError

CLIENT_ONLY = "and only adapter-registry-client is installed here: pip install adapter-registry"


@pytest.fixture
def client_only(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = "registry.services"
    monkeypatch.setattr(distribution, "find_spec", lambda name: None if name == absent else object())


def test_all_of_it_is_installed_here() -> None:
    assert distribution.is_whole()
    assert distribution.installed() == "adapter-registry"
    distribution.need_whole("do anything")


@pytest.mark.usefixtures("client_only")
def test_a_registry_in_process_is_refused_with_what_to_install_or_name(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        app.connect(tmp_path / "registry")
    assert caught.value.code == "client_only"
    assert str(caught.value) == (
        f"The distribution adapter-registry is needed to open the registry in the folder {tmp_path / 'registry'}, "
        f"{CLIENT_ONLY}, or name a service by --url, REGISTRY_URL or `registry login`."
    )
    assert not (tmp_path / "registry").exists()


@pytest.mark.usefixtures("client_only")
def test_a_teams_database_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_DATABASE_URL", "postgresql://user:secret@db/registry")
    monkeypatch.setenv("REGISTRY_STORE_URL", "s3://bucket/registry")
    with pytest.raises(UnavailableError, match="to open the registry in the team's database, and only") as caught:
        app.connect()
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("client_only")
def test_torch_alone_makes_no_arithmetic_where_the_rest_is_missing() -> None:
    """torch is there, as beside vLLM, but what works on tensors is not."""
    registry = app.open_registry("http://registry.test:8321", create=True)
    with pytest.raises(RegistryError) as caught:
        registry.fetch("net/one", "out", kind="merged", base_dir="base")
    registry.close()
    assert caught.value.code == "client_only"
    assert str(caught.value) == (
        f"The distribution adapter-registry is needed to merge on this machine, {CLIENT_ONLY}."
    )
    assert missing() == "adapter-registry"


def test_torch_is_what_is_missing_where_the_rest_is_there() -> None:
    with pytest.raises(UnavailableError, match="torch is needed to provide tensors") as caught:
        needed(None, "provide tensors")
    assert caught.value.code == "missing_package"
    assert missing() == "torch"
