"""Merged models made on the client's machine, on base weights that it has: the same bytes, and only adapters travel."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.folders.receipts import read_receipt
from tests.client.conftest import Team
from tests.kit import Base, add_tokenizer, plain_base, write_adapter
from tests.kit.shim import Shim


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (256, 512), "b.weight": (512, 256)}, shards=2)
    add_tokenizer(made.folder)
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a", "b"], r=2), "net/one")
    return made


def weights(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "registry-receipt.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def received(shim: Shim) -> int:
    return sum(one.received for one in shim.seen())


def test_only_the_adapters_travel(team: Team, base: Base, tmp_path: Path) -> None:
    size = sum(file.stat().st_size for file in base.folder.glob("*.safetensors"))
    streamed = team.client("streams").fetch("net/one", tmp_path / "streamed", kind="merged")
    with Shim(team.url) as shim:
        client = team.client(url=shim.url)
        here = client.fetch("net/one", tmp_path / "here", kind="merged", base_dir=base.folder)
        assert received(shim) < size / 10
        shim.forget()
        again = client.fetch("net/one", tmp_path / "again", kind="merged")  # remembered
        assert received(shim) < size / 10
        client.close()
    assert weights(tmp_path / "here") == weights(tmp_path / "streamed") == weights(tmp_path / "again")
    assert here.rendering == streamed.rendering == again.rendering
    assert here.files == streamed.files
    mine, theirs = read_receipt(tmp_path / "here"), read_receipt(tmp_path / "streamed")
    assert mine.fidelity is not None
    assert here.fidelity == again.fidelity == mine.fidelity
    assert theirs.fidelity is None  # nobody measured what was only sent
    assert mine.model_copy(update={"registry": theirs.registry, "fidelity": None}) == theirs
    assert str(base.folder) in here.notices[-1]
    assert str(base.folder) in again.notices[-1]
    assert streamed.notices == theirs.notices


def test_above_a_scope_nothing_but_the_weights_is_needed(team: Team, base: Base, tmp_path: Path) -> None:
    """A manifest above the scope is shown without the files that lie beside the weights, and the model is the same."""
    above = write_adapter(tmp_path / "above", base, ["a", "b"], r=2, seed=2)
    (above / "ours-alone.txt").write_text("not for those below")
    team.local.publish(above, "net/hidden")
    team.local.publish(write_adapter(tmp_path / "mine", base, ["a"], r=1, seed=3), "net/hidden/mine")
    team.local.fetch("net/hidden/mine", tmp_path / "whole", kind="merged")
    secret = team.local.create_token("reader", scopes=["net/hidden/mine"]).secret
    client = team.client(token=secret)
    client.fetch("net/hidden/mine", tmp_path / "here", kind="merged", base_dir=base.folder)
    assert weights(tmp_path / "here") == weights(tmp_path / "whole")
    assert "ours-alone" not in client.bundle("net/hidden/mine").model_dump_json()


def test_a_base_that_was_added_from_here_is_remembered(team: Team, tmp_path: Path) -> None:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16)})
    client = team.client()
    client.add_base("net", made.folder)
    client.publish(write_adapter(tmp_path / "one", made, ["a"], r=2), "net/one")
    assert "on this machine" in client.fetch("net/one", tmp_path / "out", kind="merged").notices[-1]
    assert client.verify(tmp_path / "out").equal
    weight = made.folder / "model.safetensors"
    data = bytearray(weight.read_bytes())
    data[-1] ^= 1
    weight.write_bytes(data)
    # it is no copy of the base any more: the service sends the model
    assert client.fetch("net/one", tmp_path / "sent", kind="merged").notices == ()
    assert weights(tmp_path / "sent") == weights(tmp_path / "out")
    with pytest.raises(IntegrityError) as wrong:
        client.fetch("net/one", tmp_path / "wrong", kind="merged", base_dir=made.folder)
    assert wrong.value.code == "wrong_base"
    weight.unlink()
    with pytest.raises(NotFoundError, match=r"model\.safetensors"):
        client.fetch("net/one", tmp_path / "wrong", kind="merged", base_dir=made.folder)
    assert not (tmp_path / "wrong").exists()


def test_base_weights_go_with_merged_models_alone(team: Team, base: Base, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--as merged"):
        team.client().fetch("net/one", tmp_path / "out", kind="lora", base_dir=base.folder)


def test_what_is_remembered_is_a_hint(team: Team, base: Base, tmp_path: Path) -> None:
    """A spoilt note costs a pass over the files, and never wrong weights."""
    client = team.client()
    client.fetch("net/one", tmp_path / "here", kind="merged", base_dir=base.folder)
    (note,) = (team.folder / "client").glob(".base-folders.json")
    note.write_text("{")
    sent = client.fetch("net/one", tmp_path / "sent", kind="merged")
    assert sent.notices == ()
    assert weights(tmp_path / "sent") == weights(tmp_path / "here")


def test_tensors_are_read_from_the_service(team: Team, base: Base) -> None:
    with team.client().artifact("net/one", kind="lora") as there, team.local.artifact("net/one", kind="lora") as here:
        pairs = list(zip(there.tensors(), here.tensors(), strict=True))
        assert pairs
        for (name, tensor), (other, expected) in pairs:
            assert name == other
            assert tensor.dtype == expected.dtype
            assert tensor.equal(expected)
