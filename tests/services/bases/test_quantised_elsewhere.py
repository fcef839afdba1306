"""What else reads a base model works on a quantised one, in process and over HTTP: it is a plain one to all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.catalogue.tree import bases
from registry.errors import IntegrityError, InvalidAdapterError, InvalidBaseError
from registry.progress import SILENT
from registry.schemas.transfer import BaseCommit
from registry.services.local import LocalRegistry
from registry.tensors.lineage.paths import read_document
from registry.tensors.table.targets import TargetTable
from registry.transfer.source import base_request
from tests.kit.adapters import write_adapter
from tests.kit.bases import llama_base
from tests.kit.floats import round_once
from tests.kit.quantised_models import FP8_CONFIG, NF4_CONFIG, Quantised, fp8, nf4, quantised
from tests.kit.registries import ON_HTTP, opened
from tests.kit.sending import upload
from tests.kit.tensor_files import RawTensor, read_model, write_model


@pytest.fixture(scope="module", params=["fp8", "nf4"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    root = tmp_path_factory.mktemp("made")
    plain = llama_base(root / "plain", dtype="BF16", hidden=32, mlp=40)
    if request.param == "fp8":
        return quantised(plain, root / "q", fp8((16, 16)), FP8_CONFIG, shards=3)
    return quantised(plain, root / "q", nf4, NF4_CONFIG)


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, made: Quantised, tmp_path: Path) -> Iterator[Any]:
    with opened(request, tmp_path) as kept:
        kept.add_base("llama", made.folder)
        yield kept


def test_all_that_reads_a_base(registry: Any, made: Quantised, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", made.exact, ["q_proj", "down_proj"], r=2, size=0.05)
    second = write_adapter(tmp_path / "second", made.exact, ["q_proj"], r=2, seed=1, size=0.05)
    registry.publish(first, "llama/a")
    registry.publish(second, "llama/a/b")
    merged = registry.fetch("llama/a/b", tmp_path / "merged", kind="merged")
    verified = registry.verify(merged.folder)
    assert (verified.equal, verified.exact) == (True, True)
    there = registry.fetch("llama/a/b", tmp_path / "there", kind="merged", base_dir=made.folder)
    assert there.rendering == merged.rendering
    with registry.artifact("llama/a/b", kind="merged") as artifact:
        file = artifact.files["model.safetensors"]
        whole = (Path(merged.folder) / "model.safetensors").read_bytes()
        for start, stop in ((0, 100), (501, 503), (1999, 9001), (len(whole) - 77, len(whole))):
            assert file.read(start, stop) == whole[start:stop]
    composed = registry.fetch("llama/a/b", tmp_path / "lora")
    assert Path(composed.folder, "adapter_model.safetensors").exists()
    statistics = registry.stats("llama/a/b")
    delta = {name: one.values for name, one in made.exact.reference([first, second]).items()}
    exact = {name: one.values for name, one in read_model(made.exact.folder).items()}
    norm = np.sqrt(sum(np.sum((delta[name] - exact[name]) ** 2) for name in made.decoded))
    assert statistics.path.frobenius == pytest.approx(norm, rel=1e-4)
    changed = [name for name in made.decoded if not np.array_equal(delta[name], exact[name])]
    base_norm = np.sqrt(sum(np.sum(exact[name] ** 2) for name in changed))
    assert statistics.path.relative_frobenius == pytest.approx(norm / base_norm, rel=1e-4)
    found = registry.identify(merged.folder)
    assert [one.reference for one in found.merged] == ["llama/a/b@1"]


def test_what_was_trained_on_its_folder_is_on_it(registry: Any, made: Quantised, tmp_path: Path) -> None:
    """A loader rounds what the codes mean, and an adapter that changes nothing makes the same weights."""
    registry.publish(write_adapter(tmp_path / "zero", made.exact, ["q_proj"], r=2, fill="zero"), "llama/zero")
    named = {"base_model_name_or_path": str(made.folder)}
    child = write_adapter(tmp_path / "child", made.exact, ["k_proj"], r=2, seed=3, config=named)
    for number, options in enumerate(({}, {"find_parent": True})):
        revision = registry.publish(child, f"llama/child{number}", **options).revision
        assert (revision.parent, revision.parent_known_by) == ("llama", "named")
        assert not [notice for notice in revision.notices if "quantised" in notice]
    assert [one.reference for one in registry.identify(made.folder).merged] == ["llama", "llama/zero@1"]


def test_a_copy_in_another_registry_is_the_same(registry: Any, made: Quantised, tmp_path: Path) -> None:
    registry.publish(write_adapter(tmp_path / "a", made.exact, ["q_proj"], r=2), "llama/a")
    before = registry.fetch("llama/a", tmp_path / "before", kind="merged").rendering
    with LocalRegistry.open(tmp_path / "other", create=True) as other:
        registry.copy("llama/a", other)
        assert other.fetch("llama/a", tmp_path / "after", kind="merged").rendering == before
        assert not other.retable("llama").changed


def test_adding_it_again_is_no_change(registry: Any, made: Quantised) -> None:
    assert not registry.add_base("llama", made.folder).created


def test_the_same_numbers_unquantised_are_another_base(registry: Any, made: Quantised, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    exact = read_model(made.exact.folder)
    write_model(plain, {name: RawTensor.of(round_once(one.values, "BF16"), "BF16") for name, one in exact.items()})
    (plain / "config.json").write_text((made.exact.folder / "config.json").read_text())
    digests = {registry.add_base("plain", plain).base.digest, *(one.digest for one in registry.bases())}
    assert len(digests) == 2


def test_a_scale_that_is_no_number_is_refused(made: Quantised, local: LocalRegistry, tmp_path: Path) -> None:
    stored = dict(read_model(made.folder))
    name = next(one for one in stored if one.endswith(("_scale_inv", ".nested_absmax")))
    values = stored[name].values.copy()
    values.flat[0] = np.nan
    stored[name] = RawTensor.of(values, stored[name].dtype)
    broken = tmp_path / "broken"
    write_model(broken, stored)
    (broken / "config.json").write_text((made.folder / "config.json").read_text())
    with pytest.raises(InvalidBaseError, match="not finite") as refused:
        local.add_base("broken", broken)
    assert refused.value.code == "non_finite"
    assert name.partition("_scale_inv")[0].partition(".nested_absmax")[0] in str(refused.value)
    assert local.bases() == ()


def _nearly(state: bytes) -> bytes:
    """A state as long as this one, with another offset that is also a number of float32."""
    document = json.loads(state)
    offset = np.float32(document["nested_offset"])
    while True:
        offset = np.nextafter(offset, np.float32(1))
        made = json.dumps({**document, "nested_offset": float(offset)}).encode()
        if len(made) == len(state):
            return made


@pytest.mark.parametrize("made", ["nf4"], indirect=True)
def test_states_that_are_not_those_of_the_files_are_refused(made: Quantised, local: LocalRegistry) -> None:
    folder = base_request("other", made.folder, SILENT)
    name = next(name for name in folder.request.small if "quant_state" in name)
    said = folder.request.small[name]
    forged = {**folder.request.small, name: _nearly(said)}
    request = folder.request.model_copy(update={"small": forged})
    uploads = upload(local, folder.sources, local.plan_base(request).missing)
    with pytest.raises(IntegrityError, match="other bytes than the file has") as refused:
        local.commit_base(BaseCommit(request=request, uploads=uploads))
    assert refused.value.code == "upload_mismatch"
    assert local.bases() == ()
    short = folder.request.model_copy(update={"small": {}})
    with pytest.raises(InvalidBaseError, match="with a client of this version"):
        local.plan_base(short)


def test_a_version_before_refuses_its_table(made: Quantised, local: LocalRegistry) -> None:
    """Older versions read the table before they compute, and read format 2 alone."""
    local.add_base("llama", made.folder)
    with local.deployment.read() as session:
        table = bases.get(session, "llama").table
    document = read_document(local.deployment, table)
    assert document["format"] == 3
    with pytest.raises(IntegrityError, match="it was written by another version"):
        TargetTable.from_document({key: fact for key, fact in document.items() if key != "quantised"})


def test_a_full_fine_tune_of_it_is_refused(made: Quantised, registry: Any, tmp_path: Path) -> None:
    full = tmp_path / "full"
    exact = read_model(made.exact.folder)
    write_model(full, {name: RawTensor.of(one.values * 1.01, "BF16") for name, one in exact.items()})
    (full / "config.json").write_text((made.exact.folder / "config.json").read_text())
    with pytest.raises(InvalidAdapterError, match="quantised base model") as refused:
        registry.publish(full, "llama/full", full=True)
    assert refused.value.code == "quantised_base"
    assert json.loads((full / "config.json").read_text())
