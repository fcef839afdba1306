"""Rebasing: the same files on another revision of the parent, and how far the path's weights move."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from registry.errors import ConflictError, InvalidAdapterError, NotAllowedError, RetractedError, UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.local import LocalRegistry
from tests.kit import Base, llama_base, plain_base, write_adapter
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.registries import ON_HTTP, opened

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24), "c.weight": (8, 16)}


@pytest.fixture(params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as opened:
        yield opened


class House:
    """A grandparent, a parent with two revisions of different targets, and a child on the first."""

    def __init__(self, tmp_path: Path, registry: Registry) -> None:
        self.tmp, self.registry = tmp_path, registry
        self.base = plain_base(tmp_path / "base", SHAPES)
        registry.add_base("net", self.base.folder)
        self.top = self.folder("top", 1, "a", "b")
        self.old, self.new = self.folder("old", 2, "a", "b"), self.folder("new", 3, "a", "c", r=3)
        self.child = self.folder("child", 4, "b")
        registry.publish(self.top, "net/top")
        registry.publish(self.old, "net/top/mid")
        registry.publish(self.new, "net/top/mid")
        registry.publish(
            self.child, "net/top/mid/leaf", parent="net/top/mid@1", message="trained", metrics={"acc": 0.5}
        )

    def folder(self, name: str, seed: int, *targets: str, r: int = 2) -> Path:
        return write_adapter(self.tmp / name, self.base, targets, r=r, seed=seed)


def distances(base: Base, one: list[Path], other: list[Path]) -> dict[str, float]:
    """By module, the Frobenius norm of what two paths differ by, where it is not zero."""
    a, b = (base.simulate(path).state.views for path in (one, other))
    norms = {name.removesuffix(".weight"): float(np.linalg.norm(a[name].values - b[name].values)) for name in a}
    return {name: norm for name, norm in norms.items() if norm}


def test_the_new_revision_has_the_same_files_and_the_weights_of_its_path(registry: Registry, tmp_path: Path) -> None:
    house = House(tmp_path, registry)
    told = registry.rebase("net/top/mid/leaf", "net/top/mid", dry_run=True)
    assert (told.reference, told.parent, told.onto) == ("net/top/mid/leaf@1", "net/top/mid@1", "net/top/mid@2")
    assert (told.revision, told.created, told.refused, told.values) == (None, False, None, ())
    assert [one.number for one in registry.log("net/top/mid/leaf").revisions] == [1]

    done = registry.rebase("net/top/mid/leaf", "net/top/mid", tags=["try"])
    made = done.revision
    assert made is not None
    assert (done.created, made.reference, made.parent, made.parent_known_by) == (
        True, "net/top/mid/leaf@2", "net/top/mid@2", "rebased"
    )  # fmt: skip
    assert (made.message, made.tags, made.metrics) == ("Rebased from net/top/mid/leaf@1, not trained.", ("try",), {})
    assert "Rebased from net/top/mid/leaf@1, not trained" in " ".join(made.notices)
    assert made.derived_from is not None
    assert (made.derived_from.kind, made.derived_from.reference) == ("published", "net/top/mid/leaf@1")
    files = [{file.path: file.digest for file in registry.show(f"net/top/mid/leaf@{n}").files} for n in (1, 2)]
    assert files[0] == files[1]

    # the figures are those of the dense weights, per module and in all
    paths = [[house.top, parent, house.child] for parent in (house.old, house.new)]
    expected = distances(house.base, paths[0], paths[1])
    assert {one.module: one.frobenius for one in done.moved.modules} == pytest.approx(expected, rel=1e-12)
    assert done.moved.frobenius == pytest.approx(float(np.linalg.norm([*expected.values()])), rel=1e-12)
    assert done.moved == told.moved
    own = distances(house.base, paths[0][:2], paths[0])
    assert done.own_frobenius == pytest.approx(float(np.linalg.norm([*own.values()])), rel=1e-12)
    assert done.moved.relative_frobenius is not None

    # and what is composed is the sum of the new path
    registry.fetch("net/top/mid/leaf@2", tmp_path / "merged", kind="merged", dtype="fp32")
    merged = LocalState(tmp_path / "merged")
    wanted = house.base.simulate(paths[1]).tensors
    for name, values in merged.values.items():
        np.testing.assert_allclose(values, wanted[name].rounded("F32"), rtol=1e-6, atol=1e-6)

    # once more: the same revision
    again = registry.rebase("net/top/mid/leaf@1", "net/top/mid@2")
    assert (again.created, again.revision and again.revision.reference) == (False, "net/top/mid/leaf@2")
    # and back: the digest is that of what was trained
    with pytest.raises(UsageError, match="is on net/top/mid@2 already"):
        registry.rebase("net/top/mid/leaf@2", "net/top/mid@2")
    back = registry.rebase("net/top/mid/leaf@2", "net/top/mid@1")
    assert (back.created, back.revision and back.revision.parent_known_by) == (False, "given")


class LocalState:
    """The tensors of a fetched model."""

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        self.values = load_file(next(folder.glob("*.safetensors")))


def test_a_copy_keeps_the_word_and_the_mark(registry: Registry, tmp_path: Path) -> None:
    House(tmp_path, registry)
    registry.rebase("net/top/mid/leaf", "net/top/mid@2")
    with closing(LocalRegistry.open(tmp_path / "other", cache_folder=tmp_path / "cache2")) as other:
        registry.copy("net/top/mid/leaf", other)
        copied = other.show("net/top/mid/leaf").revision
        assert copied is not None
        original = registry.show("net/top/mid/leaf@2").revision
        assert original is not None
        assert (copied.digest, copied.parent_known_by) == (original.digest, "rebased")
        assert "Rebased from net/top/mid/leaf@1, not trained" in " ".join(copied.notices)


def test_what_can_not_be_rebased(local: LocalRegistry, tmp_path: Path) -> None:
    House(tmp_path, local)
    with pytest.raises(UsageError, match="net is a base model"):
        local.rebase("net", "net/top")
    with pytest.raises(UsageError, match="net/top@1 is on the base model net itself"):
        local.rebase("net/top", "net")
    with pytest.raises(ConflictError, match="--onto net/top is not a revision of net/top/mid") as refused:
        local.rebase("net/top/mid/leaf", "net/top")
    assert refused.value.code == "parent_mismatch"
    with pytest.raises(UsageError, match="already: give another revision"):
        local.rebase("net/top/mid/leaf", "net/top/mid@1", dry_run=True)
    local.retract("net/top/mid@2", reason="bad data")
    with pytest.raises(RetractedError, match="bad data"):
        local.rebase("net/top/mid/leaf", "net/top/mid@2")


def test_away_from_a_parent_that_was_retracted(local: LocalRegistry, tmp_path: Path) -> None:
    House(tmp_path, local)
    local.retract("net/top/mid@1", reason="bad data")
    done = local.rebase("net/top/mid/leaf", "net/top/mid@2")
    assert done.revision is not None
    assert done.revision.retracted is None
    local.retract("net/top/mid/leaf@2", reason="worse")
    with pytest.raises(RetractedError, match="worse"):
        local.rebase("net/top/mid/leaf@2", "net/top/mid@1")


@pytest.mark.slow
def test_a_dora_and_copies_of_the_parent_are_refused(local: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "llama")
    local.add_base("llama", base.folder)
    parents = [write_adapter(tmp_path / f"p{seed}", base, ["q_proj", "embed_tokens"], seed=seed) for seed in (1, 2)]
    for folder in parents:
        local.publish(folder, "llama/p")
    dora = write_recipe(tmp_path / "dora", base, Recipe(targets=("q_proj",), dora=True), [parents[0]])
    copies = write_adapter(tmp_path / "copies", base, ["embed_tokens"], copies=[parents[0]])
    for name, folder, words in (("dora", dora, "is a DoRA"), ("copies", copies, "keeps a copy of its parent's weight")):
        local.publish(folder, f"llama/p/{name}", parent="llama/p@1")
        told = local.rebase(f"llama/p/{name}", "llama/p@2", dry_run=True)
        assert told.refused is not None
        assert words in told.refused
        assert told.moved.frobenius > 0
        with pytest.raises(InvalidAdapterError, match=words) as refused:
            local.rebase(f"llama/p/{name}", "llama/p@2")
        assert refused.value.code == "not_rebasable"
        assert [one.number for one in local.log(f"llama/p/{name}").revisions] == [1]
    magnitudes = local.rebase("llama/p/dora", "llama/p@2", dry_run=True).values
    assert magnitudes
    assert {(one.how, one.moved) for one in magnitudes} == {("rescaled", True)}


def test_values_say_whether_the_parents_differ_there(local: LocalRegistry, tmp_path: Path) -> None:
    base = llama_base(tmp_path / "llama")
    local.add_base("llama", base.folder)
    for seed in (1, 2):
        local.publish(write_adapter(tmp_path / f"p{seed}", base, ["lm_head", "v_proj"], seed=seed), "llama/p")
    head = write_recipe(tmp_path / "head", base, Recipe(targets=("q_proj",), replaced=("lm_head",)))
    norm = write_recipe(tmp_path / "norm", base, Recipe(targets=("q_proj",), replaced=("model.norm",)))
    for name, folder in (("head", head), ("norm", norm)):
        local.publish(folder, f"llama/p/{name}", parent="llama/p@1")
    found = {name: local.rebase(f"llama/p/{name}", "llama/p@2").values for name in ("head", "norm")}
    assert [(one.name, one.how, one.moved) for one in found["head"]] == [("lm_head.weight", "replaced", True)]
    assert [(one.how, one.moved) for one in found["norm"]] == [("replaced", False)]


def test_rights(local: LocalRegistry, tmp_path: Path) -> None:
    House(tmp_path, local)
    for rights in (Rights("reader"), Rights("writer", (TreePath.parse("net/top/mid/other"),))):
        with pytest.raises(NotAllowedError):
            local.with_principal(Principal("ann", rights)).rebase("net/top/mid/leaf", "net/top/mid@2")
    # above its scopes, a token may name a revision by its whole digest only
    scoped = local.with_principal(Principal("ann", Rights("writer", (TreePath.parse("net/top/mid/leaf"),))))
    digest = local.resolve("net/top/mid@2").digest
    assert scoped.rebase("net/top/mid/leaf", f"net/top/mid@{digest}").created


def test_the_tree_of_what_is_behind(registry: Registry, tmp_path: Path) -> None:
    House(tmp_path, registry)
    registry.publish(write_adapter(tmp_path / "else", plain_base(tmp_path / "b2", SHAPES), ["a"], seed=9), "net/fine")
    tree = registry.tree(behind=True)
    assert [one.path for one in tree.adapters()] == ["net/top", "net/top/mid", "net/top/mid/leaf"]
    with pytest.raises(UsageError, match="--behind needs the whole tree"):
        registry.tree(behind=True, limit=5)
    registry.rebase("net/top/mid/leaf", "net/top/mid")
    assert registry.tree(behind=True).roots == ()
    assert json.loads(registry.tree("net").model_dump_json())["roots"]
