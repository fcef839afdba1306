"""Clients of a team's registry, on PostgreSQL and S3: blobs come from the store by addresses that the service signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import registry
from registry.operations.registry import Registry
from tests.clients import contract
from tests.clients.machines import ClientSet, Machine, step
from tests.clients.test_downloads import digests
from tests.clients.test_loading import CLOSE, away
from tests.clients.tree import DEEP, LINKS, publish_path
from tests.kit import llama_base, plain_base, write_adapter
from tests.kit.recipes import write_recipes
from tests.kit.servers import S3Place
from tests.kit.servers_service import ServiceProcess, create_token
from tests.kit.shim import Fault, Shim

pytestmark = pytest.mark.slow
MIB = 1 << 20
HOSTS = ("127.0.0.1", "localhost")
"""Of the store: the service's own, or another. Some clients compare no more than that."""


@dataclass
class Team:
    """A service and its store, with a wire before each."""

    registry: Registry
    token: str
    service: Shim
    store: Shim
    clients: ClientSet
    folder: Path
    machines: list[Machine] = field(default_factory=list)

    def machine(self, view: str) -> Machine:
        """Somebody with a token and an empty cache, who reaches both."""
        ports = [urlsplit(wire.url).port for wire in (self.service, self.store)]
        beside = tuple(f"{host}:{port}" for host in HOSTS for port in ports)
        room, endpoint = self.folder / f"machine-{len(self.machines)}", f"{self.service.url}/{view}"
        self.machines.append(Machine(self.clients, room, endpoint, self.token, beside=beside))
        return self.machines[-1]


@pytest.fixture(params=[HOSTS[0], pytest.param(HOSTS[1], marks=pytest.mark.long)])
def team(
    request: pytest.FixtureRequest,
    postgres_migrated_url: str,
    s3_store: S3Place,
    start_service: Callable[..., ServiceProcess],
    clients: ClientSet,
    tmp_path: Path,
) -> Iterator[Team]:
    with ExitStack() as stack:
        store = stack.enter_context(Shim(s3_store.endpoint, like_s3=True))
        settings = {
            "REGISTRY_DATABASE_URL": postgres_migrated_url,
            "REGISTRY_STORE_URL": s3_store.url,
            "REGISTRY_STORE_PUBLIC_URL": f"http://{request.param}:{urlsplit(store.url).port}",
        }
        token = create_token(postgres_migrated_url)
        service = stack.enter_context(Shim(start_service({**settings, **s3_store.environ}).url))
        client = registry.connect(service.url, token)
        stack.callback(client.close)
        team = Team(client, token, service, store, clients, tmp_path)
        yield team
        for one in team.machines:
            one.leave()


def test_a_blob_comes_from_the_store_also_after_a_cut(team: Team) -> None:
    """A base and a published adapter: HEAD is answered by the service, GET is sent on to the store."""
    base = plain_base(team.folder / "base", {f"{name}.weight": (2048, 1024) for name in ("one", "two", "three")})
    link = write_adapter(team.folder / "link", base, r=2)
    team.registry.add_base("large", base.folder)
    team.registry.publish(link, "large/one")
    for wire in (team.service, team.store):
        wire.forget()
    weights = digests(base.folder)["model.safetensors"]
    team.store.faults.append(Fault(method="GET", target=f"{weights}.*X-Amz-Signature", cut_answer=15 * MIB, times=1))
    one = team.machine("hf-published")
    one.try_steps(step("snapshot", repo="large/_"))  # a client of the first generation resumes in its next call
    resumed, adapter = one.run(step("snapshot", repo="large/_"), step("snapshot", repo="large/one"))
    assert resumed["files"] == digests(base.folder)
    assert adapter["files"] == digests(link)
    contract.keeps_to(team.service.seen(target="^/hf-published/"), one.endpoint)
    assert {seen.status for seen in team.service.seen("HEAD", "/resolve/")} == {200}
    assert {seen.status for seen in team.service.seen("GET", r"resolve/.*\.safetensors")} == {302}
    cut, rest = team.store.seen("GET", weights)
    assert (cut.status, cut.received) == (200, 15 * MIB)
    assert (rest.status, rest.received) == (206, (base.folder / "model.safetensors").stat().st_size - 10 * MIB)
    # Each time by an address that the service had just signed.
    assert [seen.status for seen in team.service.seen("GET", r"resolve/\w+/model\.safetensors")] == [302, 302]
    assert {seen.method for seen in team.store.seen()} == {"GET"}


def test_a_materialised_model_comes_from_the_store(team: Team) -> None:
    """The same bytes under the same commit as when they were computed."""
    base = plain_base(team.folder / "base")
    team.registry.add_base("small", base.folder)
    team.registry.publish(write_adapter(team.folder / "link", base, r=2), "small/one")
    file = step("file", repo="small/one", name="model.safetensors")
    (computed,) = team.machine("hf").run(file)
    assert {seen.status for seen in team.service.seen("GET", "^/hf/.*safetensors")} == {200}
    team.registry.materialise("small/one", kind="merged")
    team.service.forget()
    (stored,) = team.machine("hf").run(file)
    assert stored == computed
    assert {seen.status for seen in team.service.seen("GET", "^/hf/.*safetensors")} == {302}


@pytest.mark.long
@pytest.mark.parametrize("team", ["localhost"], indirect=True)
def test_models_and_adapters_load_from_a_store(team: Team) -> None:
    base = llama_base(team.folder / "llama")
    team.registry.add_base("llama", base.folder)
    links = write_recipes(team.folder / "links", base, LINKS)
    publish_path(team.registry, "llama", links)
    repo, merged, lora = f"llama/{DEEP}", team.machine("hf"), team.machine("hf-lora")
    chain = step("chain", base=str(base.folder), links=[str(link) for link in links])
    team.service.forget()
    running = [
        merged.start(step("model", repo=repo), step("model", repo="llama/_"), chain),
        lora.start(step("adapted", base="llama/_", repo=repo), step("auto_adapted", repo=repo)),
    ]
    (model, _, expected), (adapted, auto) = (program.values() for program in running)
    for found in (model, adapted["output"], auto):
        assert away(found, expected) <= CLOSE
    for one, without in ((merged, contract.MODEL), (lora, contract.MODEL | contract.ADAPTER)):
        asked = team.service.seen(target=f"^{urlsplit(one.endpoint).path}/")
        contract.keeps_to(asked, one.endpoint, without=without, token=team.token)
