"""Settings: read, checked, and refused when they are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.cli.exit_codes import report
from registry.errors import UsageError
from registry.settings import SETTINGS, Settings, parse_duration, parse_size, read_settings, redacted
from tests.cli.conftest import Run
from tests.kit.servers_shared import SharedService

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
            "REGISTRY_WORKERS": "4",
            "REGISTRY_DEBUG": "1",
        }
    )
    assert settings == Settings(
        url="/data/registry",
        author="Anna Müller",
        cache_dir=Path("/data/cache"),
        cache_size=20 * 2**30,
        cache=2**29,
        workers=4,
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
        ("REGISTRY_WORKERS", "0"),
        ("REGISTRY_WORKERS", "65"),
        ("REGISTRY_WORKERS", "auto"),
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
        ("REGISTRY_PUBLISH_PATH", "llama"),
        ("REGISTRY_PUBLISH_PATH", "llama/Support"),
        ("REGISTRY_PUBLISH_EVERY", "epoch"),
        ("REGISTRY_PUBLISH_EVERY", "0"),
        ("REGISTRY_PUBLISH_KEEP_BEST", "0"),
        ("REGISTRY_PUBLISH_METRIC", "eval loss"),
        ("REGISTRY_PUBLISH_PARENT", "llama/support@"),
        ("REGISTRY_TRUSTED_PROXIES", "proxy.example.com"),
        ("REGISTRY_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("REGISTRY_UPSTREAM", "http://hub.example:99999"),
        ("REGISTRY_UPSTREAM", "http://hub.example:0"),
        ("REGISTRY_UPSTREAM", "http://hub.example:x"),
        ("REGISTRY_UPSTREAM", "http://[::1"),
        ("REGISTRY_UPSTREAM", "http://:80"),
        ("REGISTRY_UPSTREAM", "http://hub example"),
        ("REGISTRY_PUBLIC_URL", "https://registry.example:65536"),
        ("REGISTRY_STORE_PUBLIC_URL", "https://store.example:-1"),
        ("REGISTRY_OUTGOING_NETWORKS", "hub.example"),
        ("REGISTRY_OUTGOING_NETWORKS", "10.0.0.1/8"),
        ("REGISTRY_OUTGOING_NETWORKS", "0.0.0.0/0"),
        ("REGISTRY_OUTGOING_NETWORKS", "10.0.0.0/8,::/0"),
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
        ({**TEAM, "REGISTRY_STORE_URL": "/data", "REGISTRY_STORE_PUBLIC_URL": "https://x"}, "'/data'"),
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


# What somebody may have put into each setting by mistake, or as it is meant; None: that holds no secret.
SECRETS: dict[str, list[str] | None] = {
    "url": [
        "http://u:hunter2@host",
        "HTTP://u:hun/hunter2?#@host:x",
        "http://hunter2@host",
        "http://host/?token=hunter2",
        "u:hunter2@host",
    ],
    "token": ["hunter2", "hunter2 pasted with a blank"],
    "author": None,
    "cache_dir": None,
    "cache_size": None,
    "cache": None,
    "workers": None,
    "database_url": [
        DATABASE,
        "mysql://registry:hunter2@db/registry",
        "postgres://db:5432/registry?password=p@hunter2",
        "host=db user=registry password=hunter2",
        "registry:hunter2@db/registry",
    ],
    "store_url": ["s3://KEY:hunter2@bucket", "s3://KEY:hun/hunter2@bucket", "s3://hun/hunter2@b", "KEY:hunter2@bucket"],
    "store_public_url": [
        "http://u:hunter2@h",
        "https://hunter2@h",
        "https://h/?X-Amz-Signature=hunter2",
        "u:hunter2@h",
    ],
    "public_url": ["http://u:hunter2@h", "https://hunter2@h", "https://h/?token=hunter2", "u:hunter2@h"],
    "upstream": ["http://u:hunter2@h", "https://hunter2@h", "https://h/?token=hunter2", "u:hunter2@h"],
    "outgoing_networks": None,
    "proxy_blobs": None,
    "gc_grace": None,
    "parents": None,
    "trusted_proxies": None,
    "publish_path": None,
    "publish_every": None,
    "publish_keep_best": None,
    "publish_keep_last": None,
    "publish_metric": None,
    "publish_parent": None,
    "vllm_base": None,
    "vllm_max_rank": None,
    "vllm_max_error": None,
    "vllm_follow": None,
    "engine_key": ["hunter2", "hunter2 pasted with a blank"],
    "debug": None,
}


def test_every_setting_that_may_hold_a_secret_says_how_it_is_shown() -> None:
    assert list(SECRETS) == list(SETTINGS)
    for name, texts in SECRETS.items():
        assert (SETTINGS[name].redact is repr) == (texts is None), name
        for text in texts or []:
            assert "hunter2" not in SETTINGS[name].redact(text), text


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SECRETS.items() for text in texts or []])
def test_secrets_are_in_no_message_no_traceback_and_no_settings(
    name: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_DEBUG", "1")
    environ = {SETTINGS[name].name: text}
    if name == "store_url":
        environ |= {"REGISTRY_DATABASE_URL": DATABASE, "REGISTRY_STORE_PUBLIC_URL": "https://h"}
    try:
        said = repr(read_settings(environ))
    except UsageError as refused:
        report(refused, as_json=False)
        said = capsys.readouterr().err
        assert "REGISTRY_" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("command", ["serve", "db upgrade", "env", "tree", "token list"])
@pytest.mark.parametrize("by", ["option", "setting"])
def test_an_address_with_a_password_is_refused_without_it(
    command: str, by: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://u:hunter2@host.invalid"
    if by == "setting":
        monkeypatch.setenv("REGISTRY_URL", url)
    ended = run(*command.split(), *(["--url", url] if by == "option" else []))
    assert (ended.code, ended.out) == (2, "")
    assert "host.invalid" in ended.err
    assert "hunter2" not in ended.err


def test_login_names_the_setting_that_wins_without_its_password(
    run: Run, shared_service: SharedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("REGISTRY_URL", "http://u:hunter2@host.invalid")
    ended = run("login", shared_service.url, "--token", shared_service.token)
    assert ended.code == 0
    assert "REGISTRY_URL is 'http://***@host.invalid'" in ended.err
    assert "hunter2" not in ended.err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (DATABASE, "postgresql://***@db:5432/registry"),
        ("postgresql+psycopg://u:p@ss@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql://u:p/a?s#s@db/x", "postgresql://***@db/x"),
        ("postgresql://db/x?a=b:c@d", "postgresql://***@d"),
        ("https://me:hunter2@registry.team", "https://***@registry.team"),
        ("https://registry.team/x?token=hunter2", "https://registry.team/x?***"),
        ("https://registry.team/x", "https://registry.team/x"),
        ("me:hunter2@registry.team", "***@registry.team"),
        ("/data/registry", "/data/registry"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


SERVICE = {
    "SERVICE_HOST": "10.96.0.7",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT": "tcp://10.96.0.7:8000",
    "PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.96.0.7",
}


@pytest.mark.parametrize("service", ["REGISTRY", "REGISTRY_DB", "REGISTRY_VLLM"])
def test_what_kubernetes_says_of_a_service_is_no_setting(service: str) -> None:
    said = {f"{service}_{name}": value for name, value in SERVICE.items()}
    assert read_settings(said) == Settings()
    assert read_settings({**said, "REGISTRY_PORT": "tcp://[fd00::7]:8000"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REGISTRY_PORT", "8321"),
        ("REGISTRY_HOST", "10.96.0.7"),
        ("REGISTRY_SERVICE", "10.96.0.7"),
        ("REGISTRY_SERVICE_URL", "10.96.0.7"),
        ("REGISTRY_PORT_HTTP", "tcp://10.96.0.7:8000"),
        ("REGISTRY_PORT_8000", "tcp://10.96.0.7:8000"),
        ("REGISTRY_PORT_8000_TCP_HOST", "10.96.0.7"),
    ],
)
def test_what_only_resembles_it_is_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        read_settings({name: value})
