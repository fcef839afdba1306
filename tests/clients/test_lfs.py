"""Weights of some size, in a shell that has what `registry env` prints, and in one that has not."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from registry.app import hub_settings
from registry.services.pushing.chosen import LEAST_BY_LFS
from tests.clients import contract
from tests.clients.conftest import NewMachine
from tests.clients.machines import Machine
from tests.clients.tree import Tree
from tests.kit import write_adapter
from tests.kit.shim import Shim

pytestmark = pytest.mark.slow


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
