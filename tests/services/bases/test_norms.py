"""Norms of base models by slot: those of the running model in float64, kept beside the base, and taken again."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, update

from registry.catalogue.database.statistics_tables import BaseNormsRecord
from registry.catalogue.database.tables import BaseModelRecord
from registry.errors import NotAllowedError, NotFoundError, UnavailableError, UsageError
from registry.progress import SILENT
from registry.reference import Reference
from registry.services.artifacts.load import load_path
from registry.services.bases import norms
from registry.services.local import LocalRegistry
from registry.services.upkeep.collect import collect
from registry.tensors.lineage.bound import bind_link
from registry.tensors.lineage.paths import PathBase, target_table
from registry.tensors.path.programs import origin_of, path_programs
from registry.tensors.table.slots import Slot, slot_of_parameter, slot_of_piece, slot_of_target
from registry.tensors.table.targets import TargetTable
from tests.kit import Base, llama_base, read_model, write_adapter, write_model
from tests.kit.acting import acting
from tests.kit.floats import Array
from tests.kit.laid_models import laid_base, load_laid
from tests.kit.masked import masked_base
from tests.kit.old_tables import of_before
from tests.kit.recipes import write_recipes
from tests.kit.shelf import Shelf
from tests.kit.tensor_files import RawTensor
from tests.kit.variants import MAKERS, VARIANTS

KINDS = [
    ("llama", "F32"), ("tied llama", "BF16"), ("gpt2", "F16"), ("opt", "F32"), ("conv", "BF16"), ("attention", "F32"),
    ("mixtral", "BF16"), ("gpt_oss", "F16"), ("declared", "F32"),
]  # fmt: skip


def base_of(registry: LocalRegistry, name: str) -> PathBase:
    return load_path(registry.deployment, Reference.parse(name)).base


def norms_of(registry: LocalRegistry, name: str) -> Mapping[Slot, float] | None:
    return norms.slot_norms(registry.deployment, base_of(registry, name))


def expected(table: TargetTable, state: Mapping[str, Array]) -> dict[Slot, float]:
    """The norms of the parameters of the running model, whose values an independent loader gives."""
    found = {
        slot_of_parameter(held): float(np.linalg.norm(state[name]))
        for name, held in table.parameters.items()
        if name in state
    }
    for target in table.targets.values():
        if target.kept and not target.fused:
            slot = origin_of(slot_of_target(target), table)
            found[slot] = float(np.linalg.norm(state[f"{target.module}.{target.weight}"]))
    return found


def assert_experts(table: TargetTable, state: Mapping[str, Array], found: Mapping[Slot, float]) -> int:
    """Pieces have the norm of the whole expert together; returns how many were looked at."""
    seen = 0
    for target in table.targets.values():
        for fused in target.fused:
            for number in range(fused.experts) if fused.pieces else ():
                pieces = [found[slot_of_piece(piece, fused)] for piece in fused.pieces if piece.expert == number]
                whole = state[f"{target.module}.{fused.name}"][number]
                assert np.hypot.reduce(pieces) == pytest.approx(float(np.linalg.norm(whole)), rel=1e-13)
                seen += 1
    return seen


@pytest.mark.long_but("llama-F32", "gpt2", "mixtral", "conv", "tied llama")
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_they_are_those_of_the_running_model(tmp_path: Path, kind: str, dtype: str) -> None:
    shelf = Shelf(tmp_path)
    try:
        base = shelf.base("net", MAKERS[kind], dtype=dtype)
        found = norms_of(shelf.registry, "net")
        table = target_table(shelf.registry.deployment, base_of(shelf.registry, "net"))
        state = {name: view.values for name, view in base.simulate([]).state.views.items()}
        assert found is not None
        wanted = expected(table, state)
        assert len(wanted) > 5
        assert {slot: found[slot] for slot in wanted} == pytest.approx(wanted, rel=1e-13)
        assert (assert_experts(table, state, found) > 0) == (kind in ("mixtral", "gpt_oss", "declared"))
        _assert_all_are_known(shelf, base, kind, table, found)
    finally:
        shelf.close()


def _assert_all_are_known(shelf: Shelf, base: Base, kind: str, table: TargetTable, found: Mapping[Slot, float]) -> None:
    """Whatever a path of some variant starts from has a norm."""
    deployment = shelf.registry.deployment
    for recipe in VARIANTS[kind].values():
        reference = shelf.path("net", write_recipes(shelf.folder(), base, [recipe]))
        path = load_path(deployment, Reference.parse(reference))
        with ExitStack() as opened:
            links = [bind_link(deployment, link, path, opened) for link in path.links]
            programs = path_programs(links, table).programs
        assert programs
        assert {one.origin for one in programs.values() if one.origin is not None} <= found.keys()


@pytest.mark.parametrize(
    ("model_type", "several"),
    [
        ("sarvam_moe", False),  # parts of one tensor
        pytest.param("kimi_k25", True, marks=pytest.mark.slow),  # and in another order
        pytest.param("minimax_m3_vl", True, marks=pytest.mark.slow),  # of two tensors
    ],
)
def test_weights_whose_rows_lie_in_several_places(
    local: LocalRegistry, tmp_path: Path, model_type: str, several: bool
) -> None:
    """transformers joins, cuts or reorders the rows of file tensors to make them."""
    local.add_base("net", laid_base(tmp_path / "net", model_type))
    state = load_laid(tmp_path / "net", model_type).state_dict()
    table, found = target_table(local.deployment, base_of(local, "net")), norms_of(local, "net")
    assert found is not None
    assert any(slot.first or slot.runs for slot in found)
    assert any(slot.runs for slot in found) is several
    wanted = expected(table, {name: value.double().numpy() for name, value in state.items()})
    assert {slot: found[slot] for slot in wanted} == pytest.approx(wanted, rel=1e-13)


def test_every_way_of_adding_one_gives_the_same(registry: LocalRegistry, tmp_path: Path) -> None:
    """As links, by a copy to another registry, and by the job: also with PostgreSQL and S3."""
    base = llama_base(tmp_path / "llama", dtype="BF16", shards=2)
    registry.add_base("one", base.folder)
    first = norms_of(registry, "one")
    assert first
    other = LocalRegistry.open(tmp_path / "other", create=True)
    try:
        other.add_base("two", base.folder, link=True)
        assert norms_of(other, "two") == first
        other.publish(write_adapter(tmp_path / "adapter", base, ["q_proj"]), "two/adapter")
        other.copy("two", registry, recursive=True)
        assert norms_of(registry, "two") == first
    finally:
        other.close()
    assert norms.take_norms(registry.deployment, base_of(registry, "one"), SILENT) == first
    assert norms_of(registry, "one") == first


def forget(registry: LocalRegistry, **changes: Any) -> None:
    """As another version leaves it: without norms, or with others."""
    with registry.deployment.database.write() as session:
        if changes:
            session.execute(update(BaseNormsRecord).values(changes))
        else:
            for row in session.scalars(select(BaseNormsRecord)):
                session.delete(row)


def test_one_that_was_added_before_gets_them_by_the_job(registry: LocalRegistry, tmp_path: Path) -> None:
    registry.add_base("net", llama_base(tmp_path / "llama").folder)
    first, before = norms_of(registry, "net"), registry.bases()
    assert not registry.measure_base("net").measured
    for changes in ({}, {"format": 0}, {"format": norms.NORMS_FORMAT + 1}):
        forget(registry, **changes)
        assert norms_of(registry, "net") is None
        answer = registry.measure_base("net")
        assert (answer.base, answer.measured, answer.table_digest) == ("net", True, before[0].table_digest)
        assert first is not None
        assert answer.norms == len(first)
        assert norms_of(registry, "net") == first
    assert registry.bases() == before


def test_adding_it_again_changes_none(local: LocalRegistry, tmp_path: Path) -> None:
    folder = llama_base(tmp_path / "llama").folder
    local.add_base("net", folder)
    first = norms_of(local, "net")
    assert not local.add_base("net", folder).created
    assert norms_of(local, "net") == first


def test_a_table_that_was_rebuilt_has_none_until_they_are_taken(
    local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with of_before(monkeypatch):
        local.add_base("bert", masked_base(tmp_path / "bert").folder)
    old = base_of(local, "bert")
    assert norms_of(local, "bert")
    assert local.retable("bert").changed
    assert norms_of(local, "bert") is None
    assert norms.slot_norms(local.deployment, old) is not None  # of who still has the old table in hand
    assert local.measure_base("bert").measured
    assert norms_of(local, "bert")
    assert norms.slot_norms(local.deployment, old) is None


def test_a_table_that_is_rebuilt_meanwhile(
    local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with of_before(monkeypatch):
        local.add_base("bert", masked_base(tmp_path / "bert").folder)
    old = base_of(local, "bert")
    local.retable("bert")
    with pytest.raises(UnavailableError, match="rebuilt, while it was measured") as refused:
        norms.take_norms(local.deployment, old, SILENT)
    assert refused.value.code == "busy"


def test_other_weights_under_the_name_have_their_own(local: LocalRegistry, tmp_path: Path) -> None:
    """Two models of one architecture have the same table."""
    local.add_base("net", llama_base(tmp_path / "one", seed=1).folder)
    old, first = base_of(local, "net"), norms_of(local, "net")
    local.delete_base("net")
    assert norms.slot_norms(local.deployment, old) is None
    local.add_base("net", llama_base(tmp_path / "two", seed=2).folder)
    assert base_of(local, "net").table_digest == old.table_digest
    assert norms.slot_norms(local.deployment, old) is None
    assert norms_of(local, "net") not in (None, first)
    with pytest.raises(UnavailableError):
        norms.take_norms(local.deployment, old, SILENT)


def rows(registry: LocalRegistry) -> int:
    with registry.deployment.read_everything() as session:
        return session.scalar(select(func.count()).select_from(BaseNormsRecord)) or 0


@pytest.mark.slow_on("team")
def test_they_go_with_the_base_and_come_back_with_it(registry: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "llama")
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(tmp_path / "adapter", base, ["q_proj"]), "net/adapter")
    first = norms_of(registry, "net")
    registry.rename_base("net", "new")
    assert norms_of(registry, "new") == norms_of(registry, "net") == first
    for name in ("net", "new"):
        registry.delete_base(name, recursive=True)
    assert rows(registry) == 2
    registry.delete_base("new", undo=True)
    assert norms_of(registry, "new") == first
    registry.delete_base("new", recursive=True)
    collect(registry.deployment, dry_run=False, progress=SILENT, grace=0)
    assert rows(registry) == 0
    with registry.deployment.read_everything() as session:  # the row stays, as numbers below it are taken
        count = session.scalar(
            select(func.count()).select_from(BaseModelRecord), execution_options={"registry_deleted": True}
        )
    assert count


def test_no_blob_and_no_digest_has_them(local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What identifies a base model, and its stored bytes, are those of a version without norms."""
    folder = llama_base(tmp_path / "llama").folder
    added = local.add_base("net", folder).base
    other = LocalRegistry.open(tmp_path / "other", create=True)
    try:
        monkeypatch.setattr(norms, "norms_of_slots", lambda *_: {})
        assert other.add_base("net", folder).base.model_dump(exclude={"created_at"}) == added.model_dump(
            exclude={"created_at"}
        )
        mine, theirs = base_of(local, "net"), base_of(other, "net")
        assert (mine.index.digest, mine.table.digest) == (theirs.index.digest, theirs.table.digest)
        assert mine.files_digest == theirs.files_digest
    finally:
        other.close()


def test_values_that_are_not_finite_have_none(local: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "llama", dtype="F16")
    tensors = read_model(base.folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    values = tensors[name].values.copy()
    values[3, 2] = np.inf
    write_model(base.folder, {**tensors, name: RawTensor.of(values, "F16")})
    local.add_base("net", base.folder)
    found = norms_of(local, "net")
    assert found is not None
    assert not [slot for slot in found if slot.tensor == name]
    assert [slot for slot in found if slot.tensor == name.replace("q_proj", "k_proj")]
    assert not local.measure_base("net").measured


def test_who_may(local: LocalRegistry, tmp_path: Path) -> None:
    local.add_base("net", llama_base(tmp_path / "llama").folder)
    base, first = base_of(local, "net"), norms_of(local, "net")
    forget(local)
    for eve in (acting(local, "reader"), acting(local, "writer", "net/adapter"), acting(local, "admin", "other")):
        with pytest.raises(NotAllowedError):
            eve.measure_base("net")
    with pytest.raises(UsageError, match="path of an adapter"):
        local.measure_base("net/adapter")
    with pytest.raises(NotFoundError, match="not"):
        local.measure_base("not")
    assert acting(local, "writer", "net").measure_base("net").measured
    for scope, seen in (("net/adapter", first), ("net", first), ("other", None)):
        assert norms.slot_norms(acting(local, "reader", scope).deployment, base) == seen


def test_what_is_kept_is_small(local: LocalRegistry, tmp_path: Path) -> None:
    local.add_base("net", MAKERS["mixtral"](tmp_path / "mixtral").folder)
    with local.deployment.read_everything() as session:
        document = session.scalars(select(BaseNormsRecord.document)).one()
    found = norms_of(local, "net")
    assert found is not None
    assert len(document) < 40 * len(found) < len(zlib.decompress(document))
