"""Target tables that an older version made: what they can't serve is refused, and made anew when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.catalogue.store import blobs
from registry.errors import ConflictError, IntegrityError, NotAllowedError, NotFoundError, UsageError
from registry.progress import SILENT
from registry.services.bases import add, retable
from registry.services.local import LocalRegistry
from registry.services.upkeep.collect import collect
from registry.tensors.lineage import bound
from registry.tensors.table.targets import TargetKind, TargetTable
from tests.kit import read_model, write_adapter
from tests.kit.acting import acting
from tests.kit.masked import BIAS, EMBEDDING, HEAD, QUERY, masked_base
from tests.kit.old_tables import of_before
from tests.kit.team import open_team


@pytest.fixture
def old(local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalRegistry:
    """``bert`` with an old table; ``bert/query`` below it leaves the tie alone, ``bert/query/head`` undoes it."""
    fill(local, tmp_path, monkeypatch)
    return local


def fill(registry: LocalRegistry, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = masked_base(folder / "bert")
    with of_before(monkeypatch):
        registry.add_base("bert", base.folder)
    registry.publish(write_adapter(folder / "query", base, [QUERY], r=2), "bert/query")
    registry.publish(write_adapter(folder / "head", base, [HEAD], r=2), "bert/query/head")


def test_what_an_old_table_does_not_tell_is_refused_and_the_rest_is_not(old: LocalRegistry, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"`registry base retable bert`") as refused:
        old.fetch("bert/query/head", tmp_path / "out", kind="merged")
    assert refused.value.code == "retable_needed"
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConflictError, match="retable bert"):
        old.materialise("bert/query/head", kind="merged")
    assert BIAS in read_model(Path(old.fetch("bert/query", tmp_path / "q", kind="merged").folder))
    assert old.fetch("bert/query/head", tmp_path / "l").files
    assert old.fetch("bert/query/head", tmp_path / "p", kind="published").files


def test_what_an_older_version_materialised_is_refused_too(
    old: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bound, "unsaid", lambda _: None)
        old.materialise("bert/query/head", kind="merged")
        old.materialise("bert/query", kind="merged")
    with pytest.raises(ConflictError, match="retable bert"):
        old.fetch("bert/query/head", tmp_path / "out", kind="merged")
    assert old.fetch("bert/query", tmp_path / "q", kind="merged").files
    assert old.retable("bert").materialisations == ("bert/query@1 as merged", "bert/query/head@1 as merged")


def test_made_anew_it_has_the_bias(old: LocalRegistry, tmp_path: Path) -> None:
    before = old.fetch("bert/query", tmp_path / "before", kind="merged")
    answer = old.retable("bert")
    assert (answer.changed, answer.revisions, answer.materialisations) == (True, 2, ())
    assert answer.base == old.bases()[0]
    assert answer.previous != answer.base.table_digest
    assert answer.changes == (f"ties: 2 changed (for example {HEAD}.bias)",)
    merged = read_model(Path(old.fetch("bert/query/head", tmp_path / "out", kind="merged").folder))
    assert merged[f"{HEAD}.bias"].data == merged[BIAS].data
    assert not np.array_equal(merged[f"{HEAD}.weight"].data, merged[f"{EMBEDDING}.weight"].data)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    after = old.fetch("bert/query", tmp_path / "after", kind="merged")
    assert [file.blake3 for file in after.files] == [file.blake3 for file in before.files]
    assert after.rendering != before.rendering
    with pytest.raises(IntegrityError, match="registry base retable"):
        old.verify(tmp_path / "before")
    assert old.verify(tmp_path / "after").equal
    event = old.events(limit=1)[0]
    assert (event.action, event.subject) == ("base retable", "bert")
    assert event.detail["table"] == answer.base.table_digest
    assert event.detail["previous"] == answer.previous


def test_again_it_has_nothing_new_to_say(old: LocalRegistry) -> None:
    first = old.retable("bert")
    events = old.events()
    again = old.retable("bert")
    assert (again.changed, again.changes, again.base) == (False, (), first.base)
    assert again.previous == again.base.table_digest
    assert old.events() == events


def test_another_version_of_transformers_alone_is_nothing_new(
    local: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = local.add_base("bert", masked_base(tmp_path / "bert").folder)
    understood = add.understood
    monkeypatch.setattr(retable, "understood", lambda model: replace(understood(model), source="transformers 9.0.0"))
    assert local.retable("bert").base == added.base


def test_old_bytes_are_collected_and_materialisations_dropped(old: LocalRegistry, tmp_path: Path) -> None:
    kept = old.materialise("bert/query", kind="merged").materialisation
    answer = old.retable("bert")
    assert answer.materialisations == ("bert/query@1 as merged",)
    assert old.materialisations() == ()
    assert kept.rendering != old.materialise("bert/query", kind="merged").materialisation.rendering
    collected = collect(old.deployment, dry_run=False, progress=SILENT, grace=0)
    assert answer.previous in {blob.digest for blob in collected.blobs}
    with old.deployment.read() as session:
        assert blobs.rows(session, [answer.base.table_digest])
    assert old.fsck(deep=True).damage == ()
    assert old.fetch("bert/query/head", tmp_path / "out", kind="merged").files


def _turned(table: TargetTable) -> TargetTable:
    targets = {**table.targets, QUERY: replace(table.targets[QUERY], kind=TargetKind.CONV1D)}
    return replace(table, targets=targets)


def _gone(table: TargetTable) -> TargetTable:
    return replace(table, targets={name: one for name, one in table.targets.items() if name != QUERY})


@pytest.mark.parametrize(("change", "why"), [(_turned, "would stand for other weights"), (_gone, "could not be used")])
def test_a_revision_that_would_mean_something_else_is_named(
    old: LocalRegistry, monkeypatch: pytest.MonkeyPatch, change: Callable[[TargetTable], TargetTable], why: str
) -> None:
    understood, before, events = add.understood, old.bases(), old.events()
    monkeypatch.setattr(retable, "understood", lambda model: change(understood(model)))
    with pytest.raises(ConflictError, match=rf"bert/query@1.*{why}") as refused:
        old.retable("bert")
    assert refused.value.code == "retable_refused"
    assert old.bases() == before
    assert old.events() == events


def test_a_deleted_revision_may_come_back(old: LocalRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    old.delete("bert/query/head@1")
    old.delete("bert/query@1")
    understood = add.understood
    with monkeypatch.context() as patch:
        patch.setattr(retable, "understood", lambda model: _turned(understood(model)))
        with pytest.raises(ConflictError, match="bert/query@1"):
            old.retable("bert")
    assert old.retable("bert").revisions == 0
    assert old.delete("bert/query@1", undo=True).reference == "bert/query@1"


def test_published_meanwhile(old: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came while the table was made is looked at too."""
    base = masked_base(tmp_path / "again")
    adapter = write_adapter(tmp_path / "late", base, [QUERY], r=2, seed=5)
    seen: list[bool] = []
    understood = add.understood

    def publishing(model: Any) -> TargetTable:
        seen.append(old.publish(adapter, "bert/late").created)
        return understood(model)

    monkeypatch.setattr(retable, "understood", publishing)
    assert old.retable("bert").revisions == 3
    assert seen == [True, False]  # and so the table was made a second time


def test_who_may(old: LocalRegistry) -> None:
    for eve in (acting(old, "writer"), acting(old, "admin", "bert/query"), acting(old, "admin", "other")):
        with pytest.raises(NotAllowedError):
            eve.retable("bert")
    with pytest.raises(UsageError, match="path of an adapter"):
        old.retable("bert/query")
    with pytest.raises(NotFoundError, match="bert"):
        old.retable("bort")
    assert acting(old, "admin", "bert").retable("bert").changed


def test_biases_of_a_head_that_an_old_table_does_not_know(old: LocalRegistry, tmp_path: Path) -> None:
    """PEFT saves a value for each name of a bias; the old table knows one of them."""
    base = masked_base(tmp_path / "again")
    adapter = biased_adapter(tmp_path / "biased", base)
    with pytest.raises(ConflictError, match="retable") as refused:
        old.publish(adapter, "bert/biased")
    assert refused.value.code == "retable_needed"
    old.retable("bert")
    old.publish(adapter, "bert/biased")
    merged = read_model(Path(old.fetch("bert/biased", tmp_path / "out", kind="merged").folder))
    assert f"{HEAD}.bias" not in merged  # still tied


def biased_adapter(folder: Path, base: Any) -> Path:
    """A pair on the query, and a trained value for each name of the head's bias, as ``bias="all"`` saves them."""
    from tests.kit import read_tensors, write_tensors

    write_adapter(folder, base, [QUERY], r=2, config={"bias": "all"})
    path = folder / "adapter_model.safetensors"
    held = read_model(base.folder)
    values = {name: raw for name, raw in held.items() if name.endswith(".bias")}
    values[f"{HEAD}.bias"] = held[BIAS]
    named = {f"base_model.model.{name}": raw for name, raw in values.items() if not name.startswith(QUERY)}
    named[f"base_model.model.{QUERY}.base_layer.bias"] = held[f"{QUERY}.bias"]
    write_tensors(path, read_tensors(path) | named)
    return folder


@pytest.mark.slow
def test_of_a_team(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_team(request, cache_folder=tmp_path / "cache")
    try:
        fill(registry, tmp_path, monkeypatch)
        assert registry.retable("bert").changed
        assert not registry.retable("bert").changed
        assert registry.fetch("bert/query/head", tmp_path / "out", kind="merged").files
    finally:
        registry.close()
