"""What the manifests for Kubernetes tell pods to do, run as ordinary processes in the order of docs/kubernetes.md."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from tests.cli.people import Person
from tests.house.kustomized import Manifest, containers
from tests.house.test_kubernetes import FROM_ELSEWHERE, queries, rules, secrets_of_the_page, selectors, the
from tests.kit import llama_base, write_adapter
from tests.kit.servers import S3Place
from tests.kit.servers_home import Home, wait_until
from tests.kit.servers_service import ServiceProcess

REGISTRY = (sys.executable, "-m", "registry.cli.main")


@dataclass
class Cluster:
    """Who starts what the manifests say: hosts, ports and secrets are those of this machine."""

    home: Home
    person: Person
    settings: dict[str, str]

    def container(self, kind: str, name: str = "registry") -> Manifest:
        (found,) = containers(the(kind, name))
        return found

    def run(self, kind: str, name: str, code: int = 0) -> str:
        """Run the job of a manifest to its end; what it prints."""
        return self.person.run(*self.container(kind, name)["args"], settings=self.settings, code=code).out

    def serve(self) -> tuple[str, ...]:
        here = {"0.0.0.0": "127.0.0.1", "8321": "0"}
        return tuple(here.get(word, word) for word in self.container("Deployment")["args"])


@pytest.fixture
def cluster(
    own_home: Home, postgres_url: str, s3_store: S3Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Cluster:
    said = the("ConfigMap", "registry-settings")["data"] | secrets_of_the_page()
    here = {
        "REGISTRY_DATABASE_URL": postgres_url.replace("+psycopg", ""),
        "REGISTRY_STORE_URL": s3_store.url,
        **s3_store.environ,
    }
    assert set(here) - set(said) == {"AWS_ENDPOINT_URL"}  # offered in a comment of the settings
    return Cluster(own_home, Person(tmp_path, capsys), said | here)


@pytest.mark.long
def test_from_nothing_to_a_service_that_is_watched(cluster: Cluster, tmp_path: Path) -> None:
    run, settings = cluster.person.run, cluster.settings
    # Before the Job no pod serves, and none without a token: a rollout stops there, and old replicas stay.
    assert "registry db upgrade" in run(*cluster.serve(), settings=settings, code=1).err
    cluster.run("Job", "registry-migrate")
    cluster.run("Job", "registry-migrate")
    assert "token create" in run(*cluster.serve(), settings=settings, code=7).err
    secret = run("token", "create", "--role", "admin", "--name", "me", settings=settings).out.strip()

    replica = ServiceProcess.started(cluster.home, settings, command=(*REGISTRY, *cluster.serve()))
    try:
        container = cluster.container("Deployment")
        for kind in ("startup", "liveness", "readiness"):
            assert replica.status(container[f"{kind}Probe"]["httpGet"]["path"]) == 200
        run("login", replica.url, "--token", "-", given=secret)
        base = llama_base(tmp_path / "base", dtype="BF16")
        run("base", "add", "tiny", str(base.folder))
        run("publish", str(write_adapter(tmp_path / "support", base, ["q_proj"], r=4)), "tiny/support")
        merged = f"{replica.url}/hf/tiny/support/resolve/main/model.safetensors"
        assert (
            httpx.get(merged, headers={"Authorization": f"Bearer {secret}"}, follow_redirects=True).status_code == 200
        )

        assert "0 B" in cluster.run("CronJob", "registry-gc")
        assert cluster.run("CronJob", "registry-fsck").startswith("sound")
        assert cluster.run("CronJob", "registry-fsck-deep").startswith("sound")

        # What rules and dashboard read is there once the registry was used, and its jobs ran.
        address = replica.url + the("ServiceMonitor")["spec"]["endpoints"][0]["path"]
        body = "registry_body_bytes_total{"  # counted when the answer has ended
        wait_until(lambda: body in httpx.get(address).text, replica.process, replica.room, "The service")
        exposed = {sample.name for family in families(httpx.get(address).text) for sample in family.samples}
        expressions = [expression for _, expression in [*rules(), *queries()]]
        read = {one.name for expression in expressions for one in selectors(promql_parser.parse(expression))}
        assert read - FROM_ELSEWHERE <= exposed
        told = {
            sample.labels["command"]: sample.value
            for family in families(httpx.get(address).text)
            for sample in family.samples
            if sample.name == "registry_last_success_timestamp_seconds"
        }
        assert set(told) == {"gc", "fsck", "fsck_deep"}
        assert replica.stop() == 0
    finally:
        if replica.running:
            replica.kill()
