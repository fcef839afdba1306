"""A fetched folder that holds something else: what programs load with it fails it, all else is named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from registry.client.remote import RemoteRegistry
from registry.errors import ConflictError, InvalidBaseError
from registry.folders.staging import FetchCache
from registry.schemas import ArtifactKind
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from tests.kit import llama_base, plain_base, write_adapter
from tests.kit.peers import load_model, logits, save_model, wrap
from tests.kit.registries import ON_HTTP
from tests.kit.serving import QUICK, served

AnyRegistry = LocalRegistry | RemoteRegistry
PAIR = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyRegistry]:
    with LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache") as local:
        base = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
        local.add_base("net", base.folder)
        local.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "net/one")
        write_adapter(tmp_path / "foreign", base, ["a"], r=2, seed=9)
        if request.param == "embedded":
            yield local
            return
        with served(local) as url:
            client = RemoteRegistry(
                url, None, cache=FetchCache(tmp_path / "cache"), arithmetic=LocalArithmetic, retry=QUICK
            )
            yield client
            client.close()


def _put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_an_adapter_beside_a_merged_model_fails_it(registry: AnyRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind="merged")
    for name in PAIR:
        shutil.copy(tmp_path / "foreign" / name, out / name)
    found = registry.verify(out)
    assert (found.equal, found.exact, [one.file for one in found.mismatches]) == (False, True, PAIR)
    assert {one.reason for one in found.mismatches} == {
        "not of this artifact, and programs that load the folder read it"
    }
    assert [(one.path, one.loaded) for one in found.beside] == [(name, True) for name in PAIR]
    for force in (False, True):
        with pytest.raises(ConflictError, match="move the adapter into a folder of its own") as refused:
            registry.fetch("net/one", out, kind="merged", force=force)
        assert refused.value.code == "folder_taken"
    with pytest.raises(ConflictError, match=r"adapter_config\.json and adapter_model\.safetensors, which were not"):
        registry.fetch("net/one", out, kind="lora", force=True)
    assert sorted(PAIR) == sorted(path.name for path in out.glob("adapter_*"))


def test_a_model_with_an_adapter_beside_it_is_no_base(registry: AnyRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind="merged")
    for name in PAIR:
        shutil.copy(tmp_path / "foreign" / name, out / name)
    with pytest.raises(InvalidBaseError, match="beside it an adapter") as refused:
        registry.add_base("other", out)
    assert refused.value.code == "adapter_as_base"


@pytest.mark.parametrize("kind", ["merged", "lora", "published"])
def test_what_a_trainer_left_is_named(registry: AnyRegistry, tmp_path: Path, kind: ArtifactKind) -> None:
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind=kind)
    _put(out, "checkpoint-10/adapter_config.json", "trainer_state.json", "optimizer.pt", "runs/x/config.json")
    found = registry.verify(out)
    assert (found.equal, found.mismatches) == (True, ())
    assert [one.path for one in found.beside] == ["checkpoint-10/", "optimizer.pt", "runs/", "trainer_state.json"]
    again = registry.fetch("net/one", out, kind=kind)
    assert not again.fresh
    assert again.notices[-1] == (
        f"{out} also contains checkpoint-10/, optimizer.pt, runs/ and trainer_state.json, which are not of the "
        "artifact."
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "modeling_net.py", "generation_config.json", "pytorch_model.bin"])
def test_other_files_that_are_loaded_fail_it(registry: AnyRegistry, tmp_path: Path, name: str) -> None:
    for kind in ("merged", "lora"):
        folder = Path(registry.fetch("net/one", kind=kind).folder)  # of the cache
        _put(folder, name)
        assert [one.file for one in registry.verify(folder).mismatches] == [name]
        with pytest.raises(ConflictError, match=f"{name}, which is not of net/one@1 as {kind}"):
            registry.fetch("net/one", kind=kind)
        (folder / name).unlink()
        assert registry.verify(folder).equal
        assert not registry.fetch("net/one", kind=kind).fresh


def test_a_receipt_that_lists_them_makes_them_no_part_of_it(registry: AnyRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    registry.fetch("net/one", out, kind="merged")
    shutil.copy(tmp_path / "foreign" / PAIR[0], out / PAIR[0])
    receipt = out / "registry-receipt.json"
    listed = '"files": [{"path": "adapter_config.json", "size": 1, "blake3": "0"},'
    receipt.write_text(receipt.read_text().replace('"files": [', listed, 1))
    told = [(one.file, one.reason) for one in registry.verify(out).mismatches]
    assert told == [
        (receipt.name, "files lists 'adapter_config.json', which the artifact does not have"),
        (PAIR[0], "not of this artifact, and programs that load the folder read it"),
    ]


def test_transformers_loads_the_adapter_on_top(tmp_path: Path) -> None:
    """A trainer whose output folder is the merged model that it trains on, from fetch to publish."""
    base = save_model(tmp_path / "base", llama_base(tmp_path / "drawn").folder)
    out = tmp_path / "merged"
    with LocalRegistry.open(tmp_path / "registry") as local:
        local.add_base("llama", base)
        wrap(tmp_path / "one", load_model(base), r=2, target_modules=["q_proj", "v_proj"])
        local.publish(tmp_path / "one", "llama/one", parent="llama")
        local.fetch("llama/one", out, kind="merged")
        model = load_model(out)
        before = logits(model)
        readme = (out / "README.md").read_bytes()
        wrap(out, model, r=2, seed=3, b_scale=1.0, target_modules=["q_proj", "v_proj"])  # saved where it was trained
        moved = (logits(load_model(out)) - before).abs().max()
        assert moved > 0.1
        found = local.verify(out)
        assert not found.equal
        assert [one.path for one in found.beside if one.loaded] == PAIR
        # PEFT rewrites the README.md too
        assert {one.file for one in found.mismatches} <= {*PAIR, "README.md"}
        child = local.publish(out, "llama/one/two")
        assert (child.revision.parent, child.revision.parent_known_by) == ("llama/one@1", "receipt")
        (tmp_path / "two").mkdir()
        for name in PAIR:
            (out / name).rename(tmp_path / "two" / name)
        (out / "README.md").write_bytes(readme)
        assert local.verify(out).equal
        assert torch.equal(logits(load_model(out)), before)
        own = local.publish(tmp_path / "two", "llama/one/two")
        assert (own.revision.parent, own.revision.parent_known_by) == ("llama/one@1", "receipt")
