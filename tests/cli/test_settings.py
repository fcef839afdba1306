"""Settings: read, checked, and refused when they are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.cli.exits import report
from registry.errors import UsageError
from registry.settings import SETTINGS, Settings, parse_duration, parse_size, read_settings, without_password

DATABASE = "postgresql://registry:hunter2@db:5432/registry"
TEAM = {"REGISTRY_DATABASE_URL": DATABASE, "REGISTRY_STORE_URL": "s3://bucket/team"}


def test_nothing_set_is_every_default() -> None:
    assert read_settings({"HOME": "/x", "REGISTRY": "not ours", "REGISTRY_URL": ""}) == Settings()


def test_values_are_parsed() -> None:
    settings = read_settings(
        {
            "REGISTRY_URL": "/data/registry",
            "REGISTRY_AUTHOR": "Anna Müller",
            "REGISTRY_CACHE_DIR": "/data/cache",
            "REGISTRY_CACHE_SIZE": "20GiB",
            "REGISTRY_CACHE": "512MiB",
            "REGISTRY_DEBUG": "1",
        }
    )
    assert settings == Settings(
        url="/data/registry",
        author="Anna Müller",
        cache_dir=Path("/data/cache"),
        cache_size=20 * 2**30,
        cache=2**29,
        debug=True,
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
        ("REGISTRY_CACHE", "none"),
        ("REGISTRY_CACHE_SIZE", "big"),
        ("REGISTRY_CACHE_SIZE", "-1"),
        ("REGISTRY_CACHE_SIZE", "10 gigs"),
        ("REGISTRY_DEBUG", "yes"),
        ("REGISTRY_AUTHOR", "a\nb"),
        ("REGISTRY_AUTHOR", "a" * 129),
        ("REGISTRY_TOKEN", "a token"),
        ("REGISTRY_TOKEN", "tökén"),
        ("REGISTRY_DATABASE_URL", "mysql://db/x"),
        ("REGISTRY_DATABASE_URL", "registry.db"),
        ("REGISTRY_STORE_URL", "https://bucket.example.com"),
        ("REGISTRY_STORE_URL", "s3://b"),
        ("REGISTRY_STORE_URL", "s3://Bucket/x"),
        ("REGISTRY_STORE_PUBLIC_URL", "store.example.com"),
        ("REGISTRY_STORE_PUBLIC_URL", "https://key:secret@store.example.com"),
        ("REGISTRY_PROXY_BLOBS", "true"),
        ("REGISTRY_GC_GRACE", "a day"),
        ("REGISTRY_TRUSTED_PROXIES", "proxy.example.com"),
        ("REGISTRY_TRUSTED_PROXIES", "10.0.0.1/8"),
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


def test_a_team_is_a_database_and_a_store() -> None:
    settings = read_settings(
        {
            **TEAM,
            "REGISTRY_STORE_PUBLIC_URL": "https://store.example.com/",
            "REGISTRY_GC_GRACE": "12h",
            "REGISTRY_TRUSTED_PROXIES": "10.0.0.7, 172.16.0.0/12,fd00::/8",
            "REGISTRY_TOKEN": "reg_secret",
        }
    )
    assert settings == Settings(
        database_url=DATABASE,
        store_url="s3://bucket/team",
        store_public_url="https://store.example.com",
        gc_grace=12 * 3600,
        trusted_proxies=("10.0.0.7/32", "172.16.0.0/12", "fd00::/8"),
        token="reg_secret",
    )
    assert read_settings({**TEAM, "REGISTRY_PROXY_BLOBS": "1"}).proxy_blobs
    shared = {"REGISTRY_DATABASE_URL": "sqlite:////data/registry.db", "REGISTRY_STORE_URL": "/data/store"}
    assert read_settings(shared).store_url == "/data/store"


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"REGISTRY_STORE_URL": "s3://bucket"}, "REGISTRY_DATABASE_URL"),
        ({"REGISTRY_DATABASE_URL": DATABASE}, "REGISTRY_STORE_URL"),
        ({"REGISTRY_STORE_PUBLIC_URL": "https://x"}, "REGISTRY_STORE_URL"),
        ({**TEAM, "REGISTRY_STORE_URL": "/data", "REGISTRY_STORE_PUBLIC_URL": "https://x"}, "/data"),
        ({**TEAM, "REGISTRY_PROXY_BLOBS": "1", "REGISTRY_STORE_PUBLIC_URL": "https://x"}, "REGISTRY_PROXY_BLOBS=1"),
    ],
)
def test_what_makes_no_sense_together_is_refused_in_one_sentence(environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_settings(environ)
    said = str(refused.value)
    assert named in said
    assert "hunter2" not in said
    assert len(said.splitlines()) == 1
    assert all(name in said for name in environ if name not in TEAM)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("12h", 43200), ("90d", 90 * 86400), (" 1 d ", 86400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "90 days", "1h30m", "9999999999d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_duration(text)


SECRETS = {
    "REGISTRY_TOKEN": "hunter2 pasted with a blank",
    "REGISTRY_DATABASE_URL": "mysql://registry:hunter2@db/registry",
}


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_in_no_message_and_no_traceback(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_DEBUG", "1")
    with pytest.raises(UsageError, match=name) as refused:
        read_settings({name: SECRETS[name]})
    report(refused.value, as_json=False)
    assert "hunter2" not in capsys.readouterr().err


def test_secrets_are_not_in_the_text_of_settings() -> None:
    settings = read_settings({**TEAM, "REGISTRY_TOKEN": "reg_secret"})
    assert "hunter2" not in repr(settings)
    assert "reg_secret" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DATABASE, "postgresql://registry:***@db:5432/registry"),
        ("postgresql+psycopg://u:p@ss@db/x", "postgresql+psycopg://u:***@db/x"),
        ("postgresql://u:p/a?s#s@db/x", "postgresql://u:***@db/x"),
        ("postgresql://u@db/x", "postgresql://u@db/x"),
        ("postgresql://db/x?a=b:c@d", "postgresql://db/x?a=b:c@d"),
        ("https://me:hunter2@registry.team", "https://me:***@registry.team"),
        ("/data/a:b@c", "/data/a:b@c"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
