"""A served tree for real clients, and machines for their users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from registry.services.bases import add as adding
from registry.services.local import LocalRegistry
from registry.tensors.table.targets import TargetTable
from tests.clients.machines import ClientSet, Machine, chosen
from tests.clients.tree import Tree, fill, make_bases
from tests.kit.servers_home import Home
from tests.kit.servers_service import ServiceProcess
from tests.kit.shim import Shim

NewMachine = Callable[..., Machine]
MakeTable = Callable[[Mapping[str, Any] | None, Mapping[str, Any]], TargetTable]


@pytest.fixture(scope="session")
def clients() -> ClientSet:
    return chosen()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory, own_home: Home, table_made_once: MakeTable) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("tree")
    registry = LocalRegistry.open(folder / "registry", create=True)
    bases = make_bases(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adding, "make_table", table_made_once)
        links = fill(registry, folder, bases)
    registry.create_token("admin", name="first")
    service = ServiceProcess.started(own_home, {"REGISTRY_URL": str(folder / "registry")})
    yield Tree(registry, service, folder, bases, links)
    service.close()
    registry.close()


@pytest.fixture
def wire(tree: Tree) -> Iterator[Shim]:
    """What stands between the machines of a test and the service: it remembers all requests, and can break."""
    with Shim(tree.service.url) as shim:
        yield shim


@pytest.fixture
def machine(tree: Tree, wire: Shim, clients: ClientSet, tmp_path: Path) -> Iterator[NewMachine]:
    """Makes machines: ``machine("hf")`` has a token that may read everything, and an empty cache."""
    made: list[Machine] = []

    def make(view: str, *, token: str | None = "", **more: Any) -> Machine:
        secret = tree.token()[1] if token == "" else token
        made.append(Machine(clients, tmp_path / f"machine-{len(made)}", f"{wire.url}/{view}", secret, **more))
        return made[-1]

    yield make
    for one in made:
        one.leave()
