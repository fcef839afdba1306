"""What docker-compose.yml says, run as ordinary processes: its S3 server, its commands, its replicas, its proxy.

Only hosts, ports and folders are exchanged. PostgreSQL is that of all tests, because its image's options are not ours.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.people import Person
from tests.house.test_compose import CADDYFILE, PROGRAMS, SECRETS, resolved
from tests.kit import llama_base, write_adapter
from tests.kit.servers_home import Home, free_port, output, wait_until
from tests.kit.servers_service import ServiceProcess

REGISTRY = (sys.executable, "-m", "registry.cli.main")


@dataclass
class Stack:
    """The services of the file, started one by one."""

    home: Home
    tmp: Path
    person: Person
    services: Mapping[str, Any]
    swaps: dict[str, str]  # what the file says -> what holds here
    site: str  # where the proxy answers
    secret: str = ""  # of the admin's token
    replicas: list[ServiceProcess] = field(default_factory=list)
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def here(self, text: str) -> str:
        for said, real in self.swaps.items():
            text = text.replace(said, real)
        return text

    def words(self, name: str) -> list[str]:
        return [self.here(word) for word in self.services[name]["command"]]

    def environ(self, name: str) -> dict[str, str]:
        return {key: self.here(value) for key, value in self.services[name]["environment"].items()}

    def start(self, command: list[str], environ: Mapping[str, str], name: str, ready: str) -> None:
        """Start a program that is not ours; returns when it has written ``ready``."""
        room = self.home.room(name)
        process = self.home.run(command, room, environ={"PATH": os.environ["PATH"], "HOME": str(room), **environ})
        self.others.append(process)
        wait_until(lambda: re.search(ready, output(room)) is not None, process, room, name)

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()
        for process in self.others:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.home.forget(process)


@pytest.fixture
def stack(own_home: Home, postgres_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Stack]:
    """All of it, with the admin's token made before the replicas start, as the file says."""
    done = resolved(environ=SECRETS)
    assert done.returncode == 0, done.stderr
    ports = {name: free_port() for name in ("store", "site", "public", "admin")}
    swaps = {
        "postgresql://registry:sentinel1@postgres:5432/registry": postgres_url.replace("+psycopg", ""),
        "http://store:8333": f"http://127.0.0.1:{ports['store']}",
        "http://localhost:8333": f"http://127.0.0.1:{ports['public']}",
        ":8333": f"127.0.0.1:{ports['store']}",
        "/buckets": str(tmp_path / "buckets"),
        "172.31.83.0/24": "127.0.0.1/32",
        "0.0.0.0": "127.0.0.1",
        "http://localhost:8321": f"http://127.0.0.1:{ports['site']}",
        "8321": "0",
    }
    services = json.loads(done.stdout)["services"]
    made = Stack(own_home, tmp_path, Person(tmp_path, capsys), services, swaps, f"http://127.0.0.1:{ports['site']}")
    try:
        _start(made, ports)
        yield made
    finally:
        made.close()


def _start(stack: Stack, ports: Mapping[str, int]) -> None:
    (stack.tmp / "buckets" / "registry").mkdir(parents=True)
    rclone = [str(PROGRAMS / "rclone"), *stack.words("store")]
    stack.start(rclone, stack.environ("store"), "store", "Starting s3 server")
    stack.person.run(*stack.words("upgrade"), settings=stack.environ("upgrade"))
    create = ("token", "create", "--role", "admin")
    stack.secret = stack.person.run(*create, settings=stack.environ("registry")).out.strip()
    for name in ("api-1", "api-2"):
        command = (*REGISTRY, *stack.words(name))
        stack.replicas.append(ServiceProcess.started(stack.home, stack.environ(name), command=command))
    proxy = {
        "SITE_ADDRESS": stack.site,
        "STORE_ADDRESS": f"http://127.0.0.1:{ports['public']}",
        "REPLICAS": " ".join(replica.url.removeprefix("http://") for replica in stack.replicas),
        "STORE": f"127.0.0.1:{ports['store']}",
        "CADDY_ADMIN": f"127.0.0.1:{ports['admin']}",
    }
    caddy = [str(PROGRAMS / "caddy"), "run", "--adapter", "caddyfile", "--config", str(CADDYFILE)]
    stack.start(caddy, proxy, "caddy", "serving initial configuration")


@pytest.mark.slow
def test_a_team_works_through_the_proxy_and_one_replica_may_go(stack: Stack) -> None:
    run = stack.person.run
    run("login", stack.site, "--token", "-", given=stack.secret)
    base = llama_base(stack.tmp / "base", dtype="BF16")
    adapter = write_adapter(stack.tmp / "support", base, ["q_proj"], r=4)
    run("base", "add", "tiny", str(base.folder))
    run("publish", str(adapter), "tiny/support")

    # The bytes lie in the bucket, and went there past the replicas.
    assert list((stack.tmp / "buckets" / "registry" / "team").rglob("*"))
    counted = "".join(httpx.get(f"{replica.url}/metrics").text for replica in stack.replicas)
    assert sum(float(value) for value in re.findall(r'registry_body_bytes_total{.*"in".*} (\S+)', counted)) == 0

    # Where a request came from is what the proxy says.
    events = json.loads(run("events", "--json").out)
    assert {event["source"] for event in events if event["action"] == "publish"} == {"127.0.0.1"}

    # What is only for the inside is not there outside.
    assert httpx.get(f"{stack.site}/metrics").status_code == 404
    assert httpx.get(f"{stack.site}/readyz").status_code == 200

    # The maintenance that docs/operations.md names.
    inside = stack.environ("registry")
    assert "0 B" in run("gc", settings=inside).out
    assert run("fsck", settings=inside).out.startswith("sound")
    assert run("fsck", "--deep", settings=inside).out.startswith("sound")
    again = json.loads(run("db", "upgrade", "--json", settings=inside).out)
    assert again["before"] == again["after"]

    stack.replicas[0].kill()
    for name in ("one", "two"):
        fetched = run("fetch", "tiny/support", "-o", str(stack.tmp / name)).out.strip()
        assert (Path(fetched) / "adapter_model.safetensors").is_file()
    assert stack.replicas[1].stop() == 0
