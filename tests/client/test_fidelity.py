"""Fidelity over HTTP: what a service measured or estimates, and what this machine measures when it merges."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import UsageError
from registry.folders.receipts import read_receipt
from tests.client.conftest import Team
from tests.kit import Base, plain_base, write_adapter


@pytest.fixture
def base(team: Team, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (400, 300)}, dtype="BF16")
    team.local.add_base("net", made.folder)
    team.local.publish(write_adapter(tmp_path / "one", made, ["a"], size=0.01), "net/one")
    return made


def test_a_client_that_only_gets_bytes_says_what_the_service_measured(team: Team, base: Base, tmp_path: Path) -> None:
    client = team.client("bytes")
    assert client.fetch("net/one", tmp_path / "before", kind="merged").fidelity is None
    kept = team.local.materialise("net/one", kind="merged").materialisation.fidelity
    assert kept is not None
    found = client.fetch("net/one", tmp_path / "out", kind="merged").fidelity
    assert found is not None
    assert found.model_dump(exclude={"tensors", "left_out"}) == kept.model_dump()
    assert found.tensors == ()
    assert read_receipt(tmp_path / "out").fidelity == found
    assert client.fetch("net/one", tmp_path / "before", kind="merged").fidelity == found  # the folder that was there
    assert client.verify(tmp_path / "out").fidelity == found
    assert client.show("net/one").materialisations[0].fidelity == kept
    # another dtype is another model, which nobody measured
    assert client.fetch("net/one", tmp_path / "other", kind="merged", dtype="fp16").fidelity is None


def test_all_rows_are_measured_where_the_base_is(team: Team, base: Base, tmp_path: Path) -> None:
    client = team.client()
    with pytest.raises(UsageError, match="it needs --base-dir"):
        client.fetch("net/one", tmp_path / "out", kind="merged", fidelity="full")
    assert not (tmp_path / "out").exists()
    here = client.fetch("net/one", tmp_path / "out", kind="merged", base_dir=base.folder)
    assert here.fidelity is not None
    assert here.fidelity.rows == "sample"
    full = client.fetch("net/one", tmp_path / "out", kind="merged", base_dir=base.folder, fidelity="full")
    assert not full.fresh
    assert full.fidelity is not None
    assert full.fidelity.rows == "full"
    measured = client.materialise("net/one", kind="merged", fidelity="full").materialisation.fidelity
    assert measured is not None
    assert measured.model_dump() == full.fidelity.model_dump(exclude={"tensors", "left_out"})


def test_the_service_estimates(team: Team, base: Base) -> None:
    assert team.client().stats("net/one", fidelity="bf16") == team.local.stats("net/one", fidelity="bf16")
