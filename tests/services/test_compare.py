"""The protocol's ways to compare: diff, the log of deleted revisions, tags that move back, and what publish says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.errors import ConflictError, NotFoundError, UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.difference import DELTA_COLUMNS, MATRIX_COLUMNS
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import opened


@pytest.fixture(params=["embedded", "http"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    made = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", made.folder)
    return made


def folder_of(tmp_path: Path, base: Base, name: str, seed: int = 0, **options: object) -> Path:
    return write_adapter(tmp_path / name, base, **({"targets": ["a"], "r": 2, "seed": seed} | options))  # type: ignore[arg-type]


def test_two_revisions_of_an_adapter(registry: Registry, base: Base, tmp_path: Path) -> None:
    first, second = (
        folder_of(tmp_path, base, "one"),
        folder_of(tmp_path, base, "two", 1, targets=["a", "b"], r=4, alpha=16),
    )
    (second / "README.md").write_text("# two")
    labels = {"message": "first", "metrics": {"acc": 0.5, "loss": 1.0}, "annotations": {"data": "may"}}
    registry.publish(first, "net/x", **labels)  # type: ignore[arg-type]
    registry.publish(second, "net/x", message="second", metrics={"acc": 0.75}, tags=["prod"])
    found = registry.diff("net/x@1", "net/x@prod")
    assert (found.a.reference, found.b.reference, found.identical, found.bases) == ("net/x@1", "net/x@2", False, ())
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in (first, second)]
    wanted = {name for name in configs[0].keys() | configs[1].keys() if configs[0].get(name) != configs[1].get(name)}
    assert {one.name for one in found.config} == wanted >= {"r", "lora_alpha", "target_modules"}
    assert {one.name: (one.a, one.b) for one in found.config}["r"] == (2, 4)
    about = {one.name: (one.a, one.b) for one in found.about}
    assert about.keys() == {"message", "tags", "rank", "parameters", "size"}
    assert (about["rank"], about["message"]) == ((2, 4), ("first", "second"))
    assert {one.name: (one.a, one.b, one.difference) for one in found.metrics} == {
        "acc": (0.5, 0.75, 0.25),
        "loss": (1.0, None, None),
    }
    assert [(one.name, one.a, one.b, one.in_a, one.in_b) for one in found.annotations] == [
        ("data", "may", None, True, False)
    ]
    targets = {one.name: (one.a, one.b) for one in found.targets}
    assert targets["b"][0] is None
    assert targets["a"][0] is not None
    assert targets["a"][1] is not None
    assert (targets["a"][0].ranks, targets["a"][1].ranks) == ((2,), (4,))
    files = {one.path: (one.a is not None, one.b is not None) for one in found.files}
    assert files == {
        "README.md": (False, True), "adapter_config.json": (True, True), "adapter_model.safetensors": (True, True)
    }  # fmt: skip
    assert found.lineage.common is not None
    assert found.lineage.common.reference == "net"
    assert [[one.reference for one in side] for side in (found.lineage.a, found.lineage.b)] == [
        ["net/x@1"],
        ["net/x@2"],
    ]


def test_a_revision_and_itself(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(folder_of(tmp_path, base, "one"), "net/x", metrics={"acc": 0.5})
    found = registry.diff("net/x", "net/x@1")
    assert (found.identical, found.lineage.a, found.lineage.b) == (True, (), ())
    with pytest.raises(NotFoundError, match="net/x has no revision 2"):
        registry.diff("net/x", "net/x@2")
    with pytest.raises(UsageError, match="net is a base model"):
        registry.diff("net", "net/x")


def test_parents_that_are_pinned_elsewhere_and_other_bases(registry: Registry, base: Base, tmp_path: Path) -> None:
    for seed in (1, 2):
        registry.publish(folder_of(tmp_path, base, f"x{seed}", seed), "net/x")
        registry.publish(folder_of(tmp_path, base, f"y{seed}", 10), "net/x/y", parent=f"net/x@{seed}")
    found = registry.diff("net/x/y@1", "net/x/y@2")
    assert [(one.name, one.a, one.b) for one in found.lineage.pinned] == [("net/x", "net/x@1", "net/x@2")]
    assert (found.files, found.config, found.identical) == ((), (), False)
    above = registry.diff("net/x@1", "net/x/y@1").lineage
    assert above.common is not None
    assert (above.common.reference, above.a, [one.reference for one in above.b]) == ("net/x@1", (), ["net/x/y@1"])
    other = plain_base(tmp_path / "other", {"a.weight": (24, 16), "b.weight": (16, 24)}, seed=5)
    registry.add_base("other", other.folder)
    registry.publish(folder_of(tmp_path, other, "z", 1), "other/x")
    parted = registry.diff("net/x@1", "other/x")
    assert [one.reference for one in parted.bases] == ["net", "other"]
    assert (parted.lineage.common, len(parted.lineage.a), len(parted.lineage.b)) == (None, 2, 2)


def test_deltas_are_compared_where_they_are_asked_for(registry: Registry, base: Base, tmp_path: Path) -> None:
    for seed, leaf in ((1, "x"), (2, "y")):
        registry.publish(folder_of(tmp_path, base, leaf, seed, targets=["a", "b"]), f"net/{leaf}")
    registry.publish(folder_of(tmp_path, base, "opposite", 1, targets=["a"], alpha=-8), "net/x/z")
    assert registry.diff("net/x", "net/y").deltas is None
    found = registry.diff("net/x", "net/y", deltas=True).deltas
    assert found is not None
    assert repr(found).startswith("<Deltas net..net/x@1 and net..net/y@1: cosine ")
    assert found == registry.diff("net/x@1", "net/y@1", deltas=True).deltas  # exactly the same again
    frame = found.to_pandas()
    assert tuple(frame.columns) == DELTA_COLUMNS
    assert list(frame.module) == ["a", "b"]
    assert list(frame.cosine) == [module.cosine for module in found.modules]
    assert list(frame.row_angle) == [module.row_angles[0] for module in found.modules]
    undone = registry.diff("net/x", "net/x/z", deltas=True).deltas
    assert undone is not None
    assert (undone.a.since, undone.b.since, undone.undone_of) == ("net", "net/x@1", "a")
    (module,) = (one for one in undone.modules if one.module == "a")
    assert module.cosine == pytest.approx(-1)
    assert undone.modules[1].cosine is None
    assert undone.undone == pytest.approx((module.frobenius_a / undone.frobenius_a) ** 2 * (module.undone or 0))
    matrix = registry.diff_children("net")
    assert [child.reference for child in matrix.children] == ["net/x@1", "net/y@1"]
    assert matrix.cosine[0][1] == pytest.approx(found.cosine)
    assert repr(matrix).startswith("<DeltaMatrix of net: 2 children, largest cosine ")
    assert list(matrix.to_pandas().columns) == list(MATRIX_COLUMNS)
    for answer, cells in ((found, ("<td>net..net/x@1</td>", "<th>energy</th>")), (matrix, ("x@1", "y@1"))):
        html = answer._repr_html_()
        assert all(cell in html for cell in cells)
    registry.retract("net/y", reason="wrong data")
    assert registry.diff("net/x", "net/y", deltas=True).deltas == found


def test_the_log_of_an_adapter_with_what_was_deleted(registry: Registry, base: Base, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        registry.publish(folder_of(tmp_path, base, f"x{seed}", seed), "net/x")
    registry.delete("net/x@2")
    found = registry.log("net/x", deleted=True)
    assert ([one.number for one in found.revisions], [one.number for one in found.deleted]) == ([3, 1], [2])
    assert registry.log("net/x").deleted == ()
    newest = registry.log("net/x", limit=1, deleted=True)
    assert ([one.number for one in newest.revisions], newest.deleted) == ([3], ())
    both = registry.log("net/x", limit=2, deleted=True)
    assert ([one.number for one in both.revisions], [one.number for one in both.deleted]) == ([3, 1], [2])
    for none in (0, -1):
        for ask in (registry.search, registry.events, lambda limit: registry.log("net/x", limit=limit)):
            with pytest.raises(UsageError, match=f"The limit is {none}: 1 or more"):
                ask(limit=none)
    registry.delete_tree("net/x")
    assert [one.number for one in registry.log("net/x", deleted=True).deleted] == [3, 2, 1]
    for path in ("net/x", "net/none"):
        with pytest.raises(NotFoundError):
            registry.log(path)
    with pytest.raises(NotFoundError, match="net/none"):
        registry.log("net/none", deleted=True)


def test_a_tag_moves_and_goes_back(registry: Registry, base: Base, tmp_path: Path) -> None:
    registry.publish(folder_of(tmp_path, base, "x1", 1), "net/x", tags=["prod"])
    answer = registry.publish(folder_of(tmp_path, base, "x2", 2), "net/x", tags=["prod", "new"])
    assert [(one.tag, one.reference, one.previous) for one in answer.tagged] == [
        ("prod", "net/x@2", "net/x@1"),
        ("new", "net/x@2", None),
    ]
    with pytest.raises(ConflictError, match="net/x@prod points at net/x@2 and not at net/x@1") as refused:
        registry.tag("net/x@1", "prod", expected="@1")
    assert refused.value.code == "tag_moved"
    assert registry.tag("net/x@1", "prod", expected="@2").reference == "net/x@1"
    assert registry.tag("net/x", "prod", undo=True).reference == "net/x@2"
    assert registry.tag("net/x", "prod", undo=True, expected="@2").reference == "net/x@1"
    assert registry.tag("net/x", "new", undo=True).reference is None
    found = registry.events("net/x", kind="tag", after="1h", limit=None)
    assert [one.detail["new"] for one in found if one.detail["tag"] == "prod"] == [
        "net/x@1", "net/x@2", "net/x@1", "net/x@2", "net/x@1"
    ]  # fmt: skip
    with pytest.raises(ConflictError, match="net/x@prod points at net/x@1 and not at net/x@2: it was not changed"):
        registry.untag("net/x", "prod", expected="@2")
    assert registry.untag("net/x", "prod", expected="@1").previous == "net/x@1"


def test_a_scope_compares_what_it_sees(tmp_path: Path) -> None:
    registry = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    base = plain_base(tmp_path / "base", {"a.weight": (24, 16), "b.weight": (16, 24)})
    registry.add_base("net", base.folder)
    for seed, path in enumerate(("net/x", "net/x/y", "net/z")):
        registry.publish(folder_of(tmp_path, base, f"f{seed}", seed), path)
    registry.publish(folder_of(tmp_path, base, "new", 9), "net/x")
    inside = registry.with_principal(Principal("eve", Rights("reader", (TreePath.parse("net/x/y"),))))
    for a, b in (("net/x/y", "net/z"), ("net/z", "net/x/y"), ("net/x/y", "net/x@1"), ("net/x/y", "net/none")):
        with pytest.raises(NotFoundError):
            inside.diff(a, b)
    entries = (found := inside.diff("net/x/y", "net/x/y@1")).lineage
    assert found.identical
    assert entries.common == inside.show("net/x/y").lineage[-1]
    registry.close()


def test_a_comparison_of_nothing_says_so(registry: Registry, base: Base, tmp_path: Path) -> None:
    for name, more in (("a", {}), ("b", {"targets": ["b"]}), ("zero", {"size": 0.0})):
        registry.publish(folder_of(tmp_path, base, name, **more), f"net/{name}")
    for a, b, told in (
        ("a", "b", "No module is changed by both: there is nothing to compare."),
        ("a", "zero", "net/zero@1 does not change anything that has figures: there is nothing to compare."),
        ("zero", "zero", "Neither changes anything that has figures: there is nothing to compare."),
    ):
        found = registry.diff(f"net/{a}", f"net/{b}", deltas=True).deltas
        assert found is not None
        assert repr(found).endswith(f": {told}>")
        assert f"<p>{told}</p>" in found._repr_html_()
    same = registry.diff("net/a", "net/a", deltas=True).deltas
    assert "nothing to compare" not in repr(same)
    alone = registry.diff_children("net/a")
    assert repr(alone) == "<DeltaMatrix of net/a: 0 children, nothing to compare>"
    assert "<p>Pairs are compared, and net/a has 0 children.</p>" in alone._repr_html_()
    assert "nothing" not in repr(registry.diff_children("net"))
