"""Settings: read, checked, and refused when they are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

import registry
from registry.app import registry_folder
from registry.errors import UsageError
from registry.settings import SETTINGS, Settings, parse_size, read_settings


def test_nothing_set_is_every_default() -> None:
    assert read_settings({"HOME": "/x", "REGISTRY": "not ours", "REGISTRY_URL": ""}) == Settings()


def test_values_are_parsed() -> None:
    settings = read_settings(
        {
            "REGISTRY_URL": "/data/registry",
            "REGISTRY_AUTHOR": "Anna Müller",
            "REGISTRY_CACHE_DIR": "/data/cache",
            "REGISTRY_CACHE_SIZE": "20GiB",
            "REGISTRY_DEBUG": "1",
        }
    )
    assert settings == Settings(
        url="/data/registry", author="Anna Müller", cache_dir=Path("/data/cache"), cache_size=20 * 2**30, debug=True
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("12B", 12), ("1kB", 1000), ("1.5 MB", 1_500_000), ("20GiB", 20 * 2**30), ("2TiB", 2**41)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGISTRY_CACHE_SIZE", "big"),
        ("REGISTRY_CACHE_SIZE", "-1"),
        ("REGISTRY_CACHE_SIZE", "10 gigs"),
        ("REGISTRY_DEBUG", "yes"),
        ("REGISTRY_AUTHOR", "a\nb"),
        ("REGISTRY_AUTHOR", "a" * 129),
    ],
)
def test_malformed_values_are_refused_with_the_form(name: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_settings({name: value})
    assert name in str(refused.value)
    assert next(setting.form for setting in SETTINGS.values() if setting.name == name) in str(refused.value)


def test_unknown_names_are_refused_and_the_nearest_is_offered() -> None:
    with pytest.raises(UsageError, match="did you mean REGISTRY_URL"):
        read_settings({"REGISTRY_URI": "/x"})
    with pytest.raises(UsageError, match="the settings are REGISTRY_AUTHOR"):
        read_settings({"REGISTRY_ZZZZZZZZZZ": "/x"})


@pytest.mark.parametrize("name", ["REGISTRY_TOKEN", "REGISTRY_DATABASE_URL", "REGISTRY_STORE_URL"])
def test_settings_of_later_versions_are_not_ignored(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_settings({name: "x"})
    assert refused.value.code == "not_supported_yet"


def test_where_the_registry_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    assert registry_folder("given", Settings(url="/setting")) == tmp_path / "given"
    assert registry_folder(Path("/given"), Settings(url="/setting")) == Path("/given")
    assert registry_folder(None, Settings(url="/setting")) == Path("/setting")
    assert registry_folder("~/models", Settings()) == Path("/home/somebody/models")
    assert registry_folder(None, Settings()).name == "adapter-registry"


@pytest.mark.parametrize(
    "url", ["https://registry.example.com", "HTTP://x", "s3://bucket", "postgresql://x", "", "a\0b"]
)
def test_places_that_are_no_folder_are_refused(url: str) -> None:
    with pytest.raises(UsageError):
        registry.connect(url)


def test_a_token_is_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="token"):
        registry.connect(tmp_path, token="secret")
    assert not list(tmp_path.iterdir())
