"""Weights of some size, in a shell that has what `registry env` prints, and in one that has not."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.app import hub_settings
from registry.schemas.protocol import HUB_ORIGIN
from registry.services.pushing.repo import LEAST_BY_LFS
from tests.clients import contract
from tests.clients.conftest import NewMachine
from tests.clients.machines import Machine, step
from tests.clients.tree import Tree
from tests.kit import write_adapter
from tests.kit.servers_home import Home
from tests.kit.servers_service import SERVE, ServiceProcess
from tests.kit.shim import Shim

pytestmark = pytest.mark.slow
SMALL = "from registry.services.pushing import repo; repo.MOST_INLINE = 100; from registry.cli.main import main; main()"
"""A service for which weights of a few hundred bytes are as 500 MB are."""


def pushed(tree: Tree, wire: Shim, writer: Machine, name: str, *, seed: int) -> tuple[bool, int]:
    """Push an adapter of 4 MB; whether it went by LFS, and how many bytes were sent."""
    folder = write_adapter(writer.folder / name, tree.bases["llama"], ["q_proj", "v_proj"], r=16384, seed=seed)
    before = len(wire.seen())
    writer.shell(f"hf upload {shlex.quote(f'llama/{name}')} {shlex.quote(name)}")
    asked = wire.seen()[before:]
    tree.registry.fetch(f"llama/{name}", writer.folder / f"{name}-back", kind="published")
    weights = "adapter_model.safetensors"
    assert (writer.folder / f"{name}-back" / weights).read_bytes() == (folder / weights).read_bytes()
    return any("/info/lfs/" in one.target for one in asked), sum(one.sent for one in asked)


@pytest.fixture
def small(tree: Tree, own_home: Home) -> Iterator[str]:
    """The address of another service of the tree, to which all weights are large."""
    place = {"REGISTRY_URL": str(tree.folder / "registry")}
    service = ServiceProcess.started(own_home, place, command=(sys.executable, "-c", SMALL, *SERVE[3:]))
    yield service.url
    service.close()


def test_large_weights_of_a_client_that_insists_on_xet_end_in_a_sentence(
    tree: Tree, small: str, machine: NewMachine
) -> None:
    writer = machine("hf", token=tree.token("writer")[1])
    writer.endpoint = f"{small}/hf"
    write_adapter(writer.folder / "made", tree.bases["llama"], ["q_proj", "v_proj"], r=2, seed=73)
    if writer.clients.version("huggingface_hub") < (1, 20):
        writer.shell("hf upload llama/plainly made")
        return
    assert writer.run(step("xet")) == [True]
    push = "python -c \"import huggingface_hub as h; h.upload_folder(repo_id='llama/plainly', folder_path='made')\""
    for command in ("hf upload llama/plainly made", push):
        said = writer.shell(f"({command}) 2>&1", exit_code=1)
        assert "this client may insist on Xet, which is not served here" in said
        assert "HF_HUB_DISABLE_XET=1 and HF_HUB_USER_AGENT_ORIGIN=adapter-registry" in said
        assert "xet-write-token" not in said
    writer.settings = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_USER_AGENT_ORIGIN": HUB_ORIGIN}
    writer.shell("hf upload llama/plainly made")
    assert [one.number for one in tree.registry.log("llama/plainly").revisions] == [1]


def test_lfs_is_used_where_it_is_known_to_work(
    tree: Tree, wire: Shim, machine: NewMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    token = tree.token("writer")[1]
    found = hub_settings(tree.service.url, "merged")
    settings = {name: found[name] for name in ("HF_HUB_DISABLE_XET", "HF_HUB_USER_AGENT_ORIGIN")}
    told, plain = machine("hf", token=token, settings=settings), machine("hf", token=token)
    by_lfs, sent = pushed(tree, wire, told, "told", seed=71)
    assert by_lfs
    bytes_of = (told.folder / "told" / "adapter_model.safetensors").stat().st_size
    assert bytes_of > LEAST_BY_LFS
    assert sent < 1.1 * bytes_of
    by_lfs, sent = pushed(tree, wire, plain, "plain", seed=72)
    assert by_lfs == (plain.clients.version("huggingface_hub") < (1, 20))
    assert (sent > 1.3 * bytes_of) == (not by_lfs)
    assert {"batch", "part", "commit"} <= set(contract.pushes_keep_to(wire.seen(), told.endpoint))
