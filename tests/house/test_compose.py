"""The compose file, the image and the proxy: read by Docker Compose and Caddy themselves.

There is no Docker where these tests run, so that nobody builds the image here. Everything else is the real thing: the
file is resolved by `docker-compose config`, and `test_compose_run` starts what it says as ordinary processes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import typer

from registry import __version__
from registry.errors import UsageError
from registry.settings import read_settings
from tests.house.command_lines import parse
from tests.root import ROOT

PROGRAMS = Path(sysconfig.get_path("scripts"))
COMPOSE = ROOT / "docker-compose.yml"
CADDYFILE = ROOT / "deploy" / "Caddyfile"
SECRETS = {"POSTGRES_PASSWORD": "sentinel1", "STORE_SECRET_KEY": "sentinel2"}
OURS = f"adapter-registry:{__version__}"


def resolved(*files: Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Ask Docker Compose what a file means, with these variables and no others."""
    options = [word for file in files or (COMPOSE,) for word in ("--file", str(file))]
    command = [str(PROGRAMS / "docker-compose"), "--env-file", os.devnull, "--profile", "*", *options]
    variables = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(environ or {})}
    return subprocess.run(
        [*command, "config", "--format", "json"], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, with the secrets of this test."""
    done = resolved(environ=SECRETS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_what_is_no_command_is_not_taken_for_one() -> None:
    for words in (["db", "upgrad"], ["serve", "--prot", "1"], ["serve", "--port", "many"], ["token", "create"]):
        with pytest.raises((typer.BadParameter.__mro__[2], UsageError)):
            parse(words)


def test_every_command_of_ours_is_one(services: dict[str, Any]) -> None:
    ours = {name: service for name, service in services.items() if service["image"] == OURS}
    assert set(ours) == {"upgrade", "api-1", "api-2", "registry"}
    for service in ours.values():
        if service["command"] != ["--help"]:
            parse(service["command"])
    assert ours["upgrade"]["command"] == ["db", "upgrade"]
    assert ours["api-1"]["command"][0] == "serve"


def test_commands_in_comments_and_pages_are_commands() -> None:
    pages = [COMPOSE, ROOT / "Dockerfile", ROOT / "docs" / "team.md", ROOT / "docs" / "operations.md"]
    found = [
        (page.name, line)
        for page in pages
        for text in [page.read_text(encoding="utf-8")]
        for line in re.findall(
            r"^[# ]*(?:docker compose run --rm registry|docker run .*adapter-registry|registry) ([a-z].*)$",
            text if page.suffix != ".md" else "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL)),
            flags=re.MULTILINE,
        )
    ]
    assert len(found) > 20
    for _, line in found:
        words = re.sub(r" [>&#].*| \(.*|  .*", "", line).split()
        parse(words)


def test_every_setting_is_one_and_they_go_together(services: dict[str, Any]) -> None:
    for service in services.values():
        settings = read_settings(service.get("environment") or {})
        if service["image"] == OURS:
            assert settings.database_url == "postgresql://registry:sentinel1@postgres:5432/registry"
            assert settings.store_url == "s3://registry/team"
    assert read_settings(services["api-1"]["environment"]).store_public_url == "http://localhost:8333"


def test_the_replicas_differ_in_their_name_only(services: dict[str, Any]) -> None:
    assert services["api-1"] == services["api-2"]
    assert services["api-1"]["depends_on"]["upgrade"]["condition"] == "service_completed_successfully"


def test_the_proxy_is_believed_and_nobody_outside(services: dict[str, Any]) -> None:
    (subnet,) = json.loads(resolved(environ=SECRETS).stdout)["networks"]["default"]["ipam"]["config"]
    assert read_settings(services["api-1"]["environment"]).trusted_proxies == (subnet["subnet"],)
    assert [name for name, service in services.items() if service.get("ports")] == ["proxy"]


def test_without_secrets_nothing_starts_and_none_is_baked_in(services: dict[str, Any]) -> None:
    for missing in SECRETS:
        done = resolved(environ={name: value for name, value in SECRETS.items() if name != missing})
        assert done.returncode != 0
        assert missing in done.stderr
    # What is secret comes in by the environment of a process: it is in no image and on no command line.
    for service in services.values():
        outside = json.dumps({name: value for name, value in service.items() if name != "environment"})
        assert not [secret for secret in SECRETS.values() if secret in outside]
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_example_of_secrets_names_every_variable_and_holds_none() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = re.findall(r"^([A-Z_]+)=(.*)$", example, flags=re.MULTILINE)
    assert given == [(name, "") for name in SECRETS]
    named = set(re.findall(r"^#?([A-Z_]+)=", example, flags=re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text(encoding="utf-8")))
    assert named - {"COMPOSE_FILE"} == used


def test_https_is_a_second_file_that_fits(services: dict[str, Any]) -> None:
    done = resolved(COMPOSE, ROOT / "deploy" / "https.yml", environ=SECRETS)
    assert done.returncode == 0, done.stderr
    ports = {port["published"] for port in json.loads(done.stdout)["services"]["proxy"]["ports"]}
    assert ports == {"80", "443", "8321", "8333"}
    assert "deploy/https.yml" in (ROOT / ".env.example").read_text()


def test_images_have_a_version(services: dict[str, Any]) -> None:
    images = {service["image"] for service in services.values()} - {OURS}
    images |= set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    assert all(re.search(r":[0-9]", image) for image in images)
    assert OURS in {service["image"] for service in services.values()}, "the release that the program is"


def test_a_restore_starts_the_store_again_before_it_is_asked() -> None:
    """rclone remembers for five minutes what a folder has: what came back in between is missing for it."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = (
        text for text in re.findall(r"```\n(.*?)```", page, flags=re.DOTALL) if "tar -C" in text and "< store" in text
    )
    steps = [block.index(part) for part in ("< store.tar", "docker compose restart store", "pg_restore", "fsck --deep")]
    assert steps == sorted(steps)


def test_the_image_is_run_by_an_ordinary_user_and_asks_a_real_route() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    last = text.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", last, flags=re.MULTILINE)
    assert users == ["registry"]
    assert last.index("USER registry") < last.index("ENTRYPOINT")
    (entry,) = re.findall(r"^ENTRYPOINT (.*)", last, flags=re.MULTILINE)
    (words,) = re.findall(r"^CMD (.*)", last, flags=re.MULTILINE)
    assert json.loads(entry) == ["registry"]
    parse(json.loads(words))
    port = json.loads(words)[json.loads(words).index("--port") + 1]
    assert f"http://127.0.0.1:{port}/healthz" in last
    assert re.findall(r"^EXPOSE (.*)", last, flags=re.MULTILINE) == [port]
    for folder in re.findall(r"^COPY (?!--from)(.*) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in folder.split())


def test_caddy_takes_its_configuration_and_sends_to_the_replicas(services: dict[str, Any]) -> None:
    caddy = [str(PROGRAMS / "caddy"), "adapt", "--validate", "--adapter", "caddyfile", "--config", str(CADDYFILE)]
    done = subprocess.run(
        caddy, env={"PATH": os.environ["PATH"], "HOME": "/nowhere"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    dialled = set(re.findall(r'"dial":"([^"]+)"', done.stdout))
    assert dialled == {"api-1:8321", "api-2:8321", "store:8333"}
    assert {address.partition(":")[0] for address in dialled} <= set(services)
    assert '"uri":"/readyz"' in done.stdout
    for name in ("api-1", "api-2"):
        assert services[name]["command"][-2:] == ["--port", "8321"]
    assert ":8333" in services["store"]["command"]
