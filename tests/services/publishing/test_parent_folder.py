"""The folder that an adapter was trained on is compared with what may be its parent: in process and over HTTP alike.

The parent by a folder of weights, where a path parts a head that is tied, and the files lack the bias it shares.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from registry.client.remote import RemoteRegistry
from registry.errors import ConflictError, UsageError
from registry.folders.staging import FetchCache
from registry.operations.registry import Registry
from registry.progress import SILENT
from registry.reference import Reference
from registry.services.artifacts.load import load_path
from registry.services.publishing.parent_folder import compare_folder, of_models
from registry.tensors.comparison.verdict import Limit, Standing, Verdict
from registry.tensors.lineage.paths import LoadedPath
from tests.kit import Base, RawTensor, plain_base, read_model, read_tensors, write_adapter, write_model, write_tensors
from tests.kit.floats import round_once
from tests.kit.masked import BIAS, EMBEDDING, HEAD, QUERY, masked_base
from tests.kit.recipes import Recipe, write_recipe
from tests.kit.serving import QUICK, ServedRegistry, served
from tests.kit.shelf import Shelf
from tests.services.publishing.parent_house import WEIGHTS, House, opened


@pytest.fixture(params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    local = opened(tmp_path)
    with closing(local if request.param == "in process" else ServedRegistry(local, tmp_path / "client")) as found:
        yield found


@pytest.fixture
def house(registry: Registry, tmp_path: Path) -> House:
    return House(tmp_path, registry)


@pytest.fixture
def local_house(tmp_path: Path) -> Iterator[House]:
    with closing(opened(tmp_path)) as local:
        yield House(tmp_path, local)


def test_the_revision_that_was_merged_into_the_folder_is_the_parent(house: House) -> None:
    """net/support has two revisions, and no receipt says which one it was."""
    for number, one in enumerate(house.support, 1):
        child = house.adapter(f"child-{number}", house.merged(f"merged-{number}", [one]))
        answer = house.registry.publish(child, "net/support/child")
        assert answer.revision.parent == f"net/support@{number}"
        assert f"merged-{number}" in answer.parent_reason
        for shown in (
            answer.revision,
            house.registry.show(answer.revision.reference).revision,
            house.registry.log("net/support/child").revisions[0],
            house.registry.tree("net/support/child").roots[0].revision,
        ):
            assert shown is not None
            assert shown.parent_known_by == "compared"


def test_an_adapter_trained_on_another_merged_folder_is_not_taken_directly_under_the_base(house: House) -> None:
    """What was merged into it was never published. The folder is newer than the adapter, and the answer says so."""
    child = house.adapter("child", house.folder / "merged")
    os.utime(child / "adapter_model.safetensors", (1e9, 1e9))
    house.merged("merged", [house.adapter("other", seed=5)])
    for path, nearest in (("net/new", "net"), ("net/support/new", "net")):
        problem = house.refused(child, path)
        assert problem.code == "parent_unproven"
        assert f"{nearest} is the closest" in str(problem) or path == "net/support/new"
        assert "newer than the adapter" in str(problem)


def test_an_adapter_trained_on_the_base_is_not_pinned_below_it(house: House) -> None:
    house.registry.publish(house.support[0], "net/only")
    child = house.adapter("child", house.base.folder)
    problem = house.refused(child, "net/only/child")
    assert problem.code == "parent_mismatch"
    assert "are those of net, not those of a revision of net/only" in str(problem)
    problem = house.refused(child, "net/only/child", parent="net/only@1")
    assert problem.code == "parent_mismatch"
    assert "--parent net/only@1 says net/only@1" in str(problem)
    assert "--skip-parent-check" in str(problem)
    over = {"parent": "net/only@1", "skip_parent_check": True}
    assert house.pinned(child, "net/only/child", **over) == ("net/only@1", "given")
    assert house.pinned(child, "net/direct") == ("net", "named")  # merged in memory, it would look the same


def test_the_folder_of_an_ancestor_or_of_another_revision_is_named(house: House) -> None:
    child = house.adapter("child", house.merged("merged", house.support[:1]))
    for path, options in (
        ("net/support/shop/child", {}),
        ("net/support/child", {"parent": "net/support@2"}),
        ("net/child", {}),
    ):
        problem = house.refused(child, path, **options)
        assert problem.code == ("parent_unproven" if path == "net/child" else "parent_mismatch")
        assert "net/support@1" in str(problem) or path == "net/child"
        # where the path is right already, another one is no advice
        assert ("publish under net/support, or" in str(problem)) == (path == "net/support/shop/child")
        assert ("give --parent net/support@1, or" in str(problem)) == (path == "net/support/child")
    assert house.pinned(child, "net/support/child", parent="net/support@1") == ("net/support@1", "compared")


def test_the_check_is_only_left_out_for_a_parent_that_is_named(house: House) -> None:
    with pytest.raises(UsageError, match="--parent REF"):
        house.registry.publish(house.adapter("child"), "net/child", skip_parent_check=True)


def test_the_receipt_names_the_candidate_and_the_weights_have_to_agree(house: House) -> None:
    fetched = house.folder / "fetched"
    house.registry.fetch("net/support@2", fetched, kind="merged")
    child = house.adapter("child", fetched)
    answer = house.registry.publish(child, "net/support/child")
    assert (answer.revision.parent, answer.revision.parent_known_by) == ("net/support@2", "receipt")
    assert "and its weights are those in" in answer.parent_reason
    # another merge is saved over it, and the receipt stays
    shutil.copy(house.merged("merged", house.support[:1]) / WEIGHTS, fetched / WEIGHTS)
    problem = house.refused(child, "net/support/other")
    assert problem.code == "parent_mismatch"
    assert "receipt" in str(problem)
    assert "net/support@1" in str(problem)
    shutil.copy(house.merged("unknown", [house.adapter("x", seed=8)]) / WEIGHTS, fetched / WEIGHTS)
    assert house.refused(child, "net/support/other").code == "parent_unproven"
    over = {"parent": "net/support@1", "skip_parent_check": True}
    assert house.pinned(child, "net/support/other", **over) == ("net/support@1", "given")


def test_relative_names_are_looked_up_from_the_adapters_folder_and_then_from_here(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = house.folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    child = house.adapter("child", "merged")
    shutil.move(house.merged("merged-1", house.support[:1]), here / "merged")
    answer = house.registry.publish(child, "net/support/one")
    assert answer.revision.parent == "net/support@1"
    assert "looked up from the working directory" in answer.parent_reason
    shutil.move(house.merged("merged-2", house.support[1:]), child / "merged")
    answer = house.registry.publish(child, "net/support/two")
    assert answer.revision.parent == "net/support@2"
    assert "looked up from the adapter's folder" in answer.parent_reason


def _packed(folder: Path) -> str:
    tensors = read_tensors(folder / WEIGHTS)
    packed = {"a.weight": RawTensor("U8", (192, 1), bytes(192)), "a.weight.absmax": RawTensor("F32", (2,), bytes(8))}
    write_tensors(folder / WEIGHTS, tensors | packed)
    return "it is quantised"


def _pickled(folder: Path) -> str:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    return "it contains no safetensors weights"


def _resized(folder: Path) -> str:
    tensors = read_tensors(folder / WEIGHTS)
    values = tensors["a.weight"].values
    write_tensors(folder / WEIGHTS, tensors | {"a.weight": RawTensor.of(np.vstack([values, values[:2]]), "BF16")})
    return "it has another vocabulary"


def _renamed(folder: Path) -> str:
    tensors = read_tensors(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, {f"t{number}": one for number, one in enumerate(tensors.values())})
    return "its tensors have other names"


def _an_adapter_alone(folder: Path) -> str:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    return "it contains no safetensors weights"


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("spoiled")
    with closing(opened(folder)) as local:
        house = House(folder, local)
        local.publish(house.support[0], "net/only")
        yield house


@pytest.mark.parametrize("spoil", [_packed, _pickled, _resized, _renamed, _an_adapter_alone])
def test_what_can_not_be_compared_is_taken_with_a_notice(spoiled: House, spoil: Callable[[Path], str]) -> None:
    house, name = spoiled, f"child{spoil.__name__}"
    folder = house.merged(f"merged{spoil.__name__}", house.support[:1])
    why = spoil(folder)
    for path, parent in (("net/only/child", "net/only@1"), ("net/direct", "net")):
        answer = house.registry.publish(house.adapter(name, folder), path)
        assert (answer.revision.parent, answer.revision.parent_known_by) == (parent, "assumed")
        assert [notice for notice in answer.revision.notices if "not compared" in notice and why in notice]
    with pytest.raises(UsageError, match="several revisions") as refused:  # and why the folder did not tell which one
        house.registry.publish(house.adapter(name, folder), "net/support/child")
    assert "not compared" in str(refused.value)
    assert why in str(refused.value)


def test_a_client_without_torch_says_so(tmp_path: Path) -> None:
    local = opened(tmp_path)
    with closing(local), served(local) as url:
        house = House(tmp_path, local)
        with closing(RemoteRegistry(url, cache=FetchCache(tmp_path / "other"), retry=QUICK)) as client:
            house.registry = client
            answer = client.publish(house.adapter("child", house.base.folder), "net/child")
            assert answer.revision.parent_known_by == "assumed"
            assert any("torch" in notice for notice in answer.revision.notices)


@pytest.mark.parametrize("dtype", ["BF16", pytest.param("F32", marks=pytest.mark.slow)])
def test_whatever_it_was_merged_and_saved_in(tmp_path: Path, dtype: str) -> None:
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, dtype=dtype)
        path = [house.support[0], house.shop]
        for saved in ("F32", "BF16", "F16"):
            for merge in (house.merged, house.stepwise):
                name = f"{merge.__name__}-{saved}"
                child = house.adapter(f"child-{name}", merge(name, path, saved))
                assert house.pinned(child, "net/support/shop/child") == ("net/support/shop@1", "compared")
                # and kept in float32 from then on
                child = house.adapter(f"wide-{name}", house.save(f"wide-{name}", house.values(tmp_path / name), "F32"))
                assert house.pinned(child, "net/support/shop/child") == ("net/support/shop@1", "compared")


def far_from_zero(folder: Path, **options: Any) -> Base:
    """A base whose weights all have a coarse unit of rounding, which a percent of a delta is less than."""
    base = plain_base(folder, **options)
    tensors = read_model(folder)
    moved = {name: raw.values + np.copysign(0.5, raw.values) for name, raw in tensors.items()}
    write_model(
        folder, {name: RawTensor.of(round_once(moved[name], raw.dtype), raw.dtype) for name, raw in tensors.items()}
    )
    return base


@pytest.mark.parametrize(
    ("dtype", "dora"),
    [
        ("BF16", True),
        ("F32", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("BF16", False), ("F32", True))),
    ],
)
def test_an_adapter_that_was_rounded_before_it_was_merged(tmp_path: Path, dtype: str, *, dora: bool) -> None:
    """As `model.half()` and PEFT's `autocast_adapter_dtype=False` do."""
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, dtype=dtype, shapes={"a.weight": (96, 64), "b.weight": (64, 96)})
        parents = []
        for number in (1, 2):
            recipe = Recipe(("a", "b"), r=8, dora=dora, seed=40 + number)
            parents.append(write_recipe(tmp_path / f"parent-{number}", house.base, recipe))
            local.publish(parents[-1], "net/wide")
        for saved in ("BF16", "F16"):
            for number, parent in enumerate(parents, 1):
                name = f"{saved}-{number}"
                folder = house.merged(f"merged-{name}", [house.rounded(f"short-{name}", parent, saved)], saved)
                child = house.adapter(f"child-{name}", folder)
                assert house.pinned(child, "net/wide/child") == (f"net/wide@{number}", "compared")


@pytest.mark.parametrize("merge", [House.merged, House.stepwise])
def test_two_parents_one_percent_of_a_delta_apart_are_told_apart(
    tmp_path: Path, merge: Callable[[House, str, list[Path]], Path]
) -> None:
    """Element by element either fits, in bfloat16, where no weight is near zero: only the projection tells."""
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, far_from_zero, shapes={"a.weight": (96, 64), "b.weight": (64, 96)})
        adapters = [house.shop, house.near("near", house.shop, 0.01)]
        local.publish(adapters[1], "net/support/shop", parent="net/support@1")
        for number, last in enumerate(adapters, 1):
            child = house.adapter(f"child-{number}", merge(house, f"merged-{number}", [house.support[0], last]))
            assert house.pinned(child, "net/support/shop/child") == (f"net/support/shop@{number}", "compared")


def test_revisions_of_the_same_weights_are_asked_for(house: House) -> None:
    (house.support[1] / "README.md").write_text("the same once more")
    house.registry.publish(house.support[1], "net/support")
    child = house.adapter("child", house.merged("merged", house.support[1:]))
    problem = house.refused(child, "net/support/child")
    assert problem.code == "parent_ambiguous"
    assert "net/support@2" in str(problem)
    assert "net/support@3" in str(problem)
    assert house.pinned(child, "net/support/child", parent="net/support@3") == ("net/support@3", "compared")


def test_a_delta_that_rounding_swallows_is_no_contradiction(local_house: House) -> None:
    """The folder is the base, bit by bit, and the parent's merge as well: the path says which one is meant."""
    house = local_house
    house.registry.publish(house.adapter("tiny", seed=4, size=1e-10), "net/tiny")
    child = house.adapter("child", house.merged("merged", [house.folder / "tiny"]))
    assert (house.folder / "merged" / WEIGHTS).read_bytes() == (house.merged("same", []) / WEIGHTS).read_bytes()
    assert house.pinned(child, "net/tiny/child") == ("net/tiny@1", "compared")


def test_sums_in_float32_whose_terms_cancel_are_no_contradiction(tmp_path: Path) -> None:
    """The delta is small, and what it is the sum of is not: the error of the sum is relative to its terms."""
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, dtype="F32")
        parent = house.adapter("parent", targets=["a"], seed=30)
        tensors = read_tensors(parent / "adapter_model.safetensors")
        key_a, key_b = sorted(tensors)
        a, b = tensors[key_a].values, tensors[key_b].values
        a[1], b[:, 0] = a[0], 3000 * b[:, 0] / np.abs(b).max()
        b[:, 1] = b[:, 1] * 1e-3 - b[:, 0]
        write_tensors(
            parent / "adapter_model.safetensors", {key_a: RawTensor.of(a, "F32"), key_b: RawTensor.of(b, "F32")}
        )
        local.publish(parent, "net/cancels")
        local.fetch("net/cancels", tmp_path / "fetched", kind="merged")
        assert house.pinned(house.adapter("child", tmp_path / "fetched"), "net/cancels/x") == (
            "net/cancels@1",
            "receipt",
        )


def test_one_tensor_that_no_candidate_changes_shows_another_merge(local_house: House) -> None:
    house = local_house
    other = house.adapter("other", seed=6, targets=["c"], size=0.02)
    child = house.adapter("child", house.merged("merged", [house.support[0], other]))
    problem = house.refused(child, "net/support/child")
    assert problem.code == "parent_unproven"
    assert "c.weight" in str(problem)


@pytest.mark.parametrize("dora", [pytest.param(False, marks=pytest.mark.slow), True])
def test_token_rows_and_magnitudes(tmp_path: Path, *, dora: bool) -> None:
    """The rows lie in the first and the last block of a large tensor, of which the other blocks say nothing."""
    with closing(opened(tmp_path)) as local:
        shapes = {"a.weight": (16, 16), "b.weight": (16, 16), "embed_tokens.weight": (20_000, 16)}
        house = House(tmp_path, local, shapes=shapes)
        recipe = Recipe(("a",), tokens={"embed_tokens": (5, 19_990)}, dora=dora)
        parent = write_recipe(tmp_path / "parent", house.base, recipe)
        local.publish(parent, "net/tokens")
        folder = house.merged("merged", [parent])
        child = house.adapter("child", folder)
        assert house.pinned(child, "net/tokens/child") == ("net/tokens@1", "compared")
        values = house.values(folder)
        values["embed_tokens.weight"][19_990] += 0.1
        house.save("merged", values)
        problem = house.refused(child, "net/tokens/child")
        assert problem.code == "parent_unproven"
        assert "embed_tokens" in str(problem)


def test_shards_and_a_leading_part_of_names(local_house: House) -> None:
    house = local_house
    tensors = read_tensors(house.merged("merged", house.support[1:]) / WEIGHTS)
    folder = house.folder / "sharded"
    folder.mkdir()
    write_model(folder, {f"wrapped.{name}": tensor for name, tensor in tensors.items()}, 3)
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert house.pinned(house.adapter("child", folder), "net/support/child") == ("net/support@2", "compared")


class _Bar:
    def __init__(self) -> None:
        self.begun: list[str] = []

    def begin(self, what: str, total: int) -> None:
        self.begun.append(f"{what} {total}")

    def advance(self, amount: int) -> None:
        del amount


def test_nested_folders_are_compared_with_what_is_only_planned(registry: Registry, tmp_path: Path) -> None:
    """A dry run and the run itself say the same; over HTTP a dry run says what it could not look at."""
    house = House(tmp_path, registry)
    heap = tmp_path / "heap"
    top = house.adapter("top", seed=31)
    below = house.adapter("below", house.merged("merged", [top]), seed=32)
    shutil.copytree(top, heap / "top")
    shutil.copytree(below, heap / "top" / "below")
    planned = registry.publish_folders(heap, "net", dry_run=True)
    assert [one.state for one in planned if one.state != "skipped"] == ["planned", "planned"]
    second = planned[1].preview
    assert second is not None
    assert second.parent_known_by == "compared" or any("trained on" in what for what in second.unchecked)
    done = [one.published for one in registry.publish_folders(heap, "net") if one.published is not None]
    assert [one.revision.parent_known_by for one in done] == ["assumed", "compared"]
    # and one that was trained on something else is refused before anything is published
    wrong = tmp_path / "wrong"
    shutil.copytree(house.adapter("other", seed=33), wrong / "other")
    shutil.copytree(below, wrong / "other" / "below")
    with pytest.raises(ConflictError) as refused:
        registry.publish_folders(wrong, "net")
    assert refused.value.code == "parent_unproven"


def _compared(house: House, folder: Path, limit: Limit, bar: _Bar | None = None) -> Verdict:
    local = house.registry
    references = ("net", "net/support@1", "net/support@2")
    paths = [load_path(local.deployment, Reference.parse(one)) for one in references]  # type: ignore[attr-defined]
    return compare_folder(local.deployment, paths, folder, limit=limit, progress=bar or SILENT)  # type: ignore[attr-defined]


def test_the_limit_ends_what_is_read_and_the_verdict_says_so(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as local:
        shapes = {"a.weight": (16, 16)} | {f"z{number}.weight": (16, 16) for number in range(200)}
        house = House(tmp_path, local, targets=["a", "z1"], shapes=shapes)
        folder = house.merged("merged", house.support[1:])
        whole = _compared(house, folder, Limit())
        assert (whole.fitting, whole.complete, whole.tensors) == (("net/support@2",), True, 201)
        for limit in (Limit(bytes=4000), Limit(seconds=0.0)):
            part = _compared(house, folder, limit)
            assert (part.fitting, part.complete) == (("net/support@2",), False)
            assert part.tensors < part.of == 201


def test_what_ties_is_read_whole_with_progress(tmp_path: Path) -> None:
    """Two revisions of the same weights, in a tensor of many blocks: only all of it shows that nothing tells."""
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, shapes={"a.weight": (1024, 256), "b.weight": (16, 16)})
        near = house.near("near", house.support[0], 1e-9)
        local.publish(near, "net/support")
        local.delete("net/support@2")
        folder = house.merged("merged", house.support[:1])
        bar = _Bar()
        paths = [load_path(local.deployment, Reference.parse(one)) for one in ("net/support@1", "net/support@3")]
        found = compare_folder(local.deployment, paths, folder, limit=Limit(seconds=0.0), progress=bar)
        assert found.fitting == ("net/support@1", "net/support@3")
        assert bar.begun
        assert house.refused(house.adapter("child", folder), "net/support/child").code == "parent_ambiguous"


def test_of_several_models_it_is_that_which_explains_the_bits_or_clearly_more_of_them() -> None:
    """Verdicts on the paths of each model by itself: their residuals say which model it is, or that none does."""

    def path(name: str, exact: str | None) -> Any:
        return SimpleNamespace(reference=name, exact=exact and SimpleNamespace(digest=exact))

    def decided(**residuals: tuple[float, bool]) -> tuple[tuple[str, ...], str]:
        def of_one(group: Sequence[LoadedPath]) -> Verdict:
            residual, fits = residuals[group[0].reference]
            nearest = Standing(group[0].reference, 1e-3, "a.weight", 0, 0)
            names = (group[0].reference,) if fits else ()
            return Verdict(names, nearest, 4, 4, 0, True, 0.5, (), residual, 1.0, 0, True)

        verdict = of_models([path(name, None if name == "base" else name) for name in residuals], of_one)
        return verdict.fitting, verdict.nearest.name

    assert decided(base=(400.0, True), sft=(2.0, True)) == (("sft",), "sft")
    assert decided(base=(40.0, True), sft=(2.0, True)) == (("sft", "base"), "sft")  # too near each other
    assert decided(base=(3.0, True), sft=(0.0, True)) == (("sft",), "sft")  # bit for bit
    assert decided(base=(3.0, True), sft=(0.0, False)) == (("base",), "base")
    assert decided(base=(3.0, False), sft=(1.0, False))[0] == ()


def _folder(shelf: Shelf, reference: str) -> Path:
    """The merged model as somebody else would have written it, without a receipt."""
    out, plain = shelf.folder(), shelf.folder()
    shelf.registry.fetch(reference, out, kind="merged")
    plain.mkdir()
    write_model(plain, read_model(out))
    (plain / "config.json").write_bytes((out / "config.json").read_bytes())
    return plain


def _on(folder: Path, adapter: Path) -> Path:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder)}))
    return adapter


@pytest.mark.parametrize("parted", [HEAD, EMBEDDING])
def test_a_child_of_a_parted_head_is_compared(shelf: Shelf, parted: str) -> None:
    """Beside it lie one that leaves the tie alone, and one that changes the bias that both sides share."""
    base: Base = shelf.base("bert", masked_base)
    ours, path, seed = shelf.registry, f"bert/of-{len(parted)}", len(parted)
    ours.publish(write_adapter(shelf.folder(), base, [QUERY], r=2, seed=seed), path)
    ours.publish(write_recipe(shelf.folder(), base, Recipe((QUERY, parted), seed=seed)), path)
    folder = _folder(shelf, f"{path}@2")
    assert read_model(folder)[f"{HEAD}.bias"] == read_model(folder)[BIAS]
    child = _on(folder, write_adapter(shelf.folder(), base, [QUERY], r=2, seed=3))
    found = ours.publish(child, f"{path}/b").revision
    assert (found.parent, found.parent_known_by) == (f"{path}@2", "compared")
    assert [one.reference for one in ours.identify(folder).merged] == [f"{path}@2"]
    assert [one.reference for one in ours.identify(_folder(shelf, f"{path}@1")).merged] == [f"{path}@1"]


def test_a_copy_of_the_bias_is_compared_too(shelf: Shelf) -> None:
    """The copy that a model has of its own once the head is parted, with other numbers, is that of no revision."""
    base: Base = shelf.base("bert", masked_base)
    ours = shelf.registry
    ours.publish(write_recipe(shelf.folder(), base, Recipe((QUERY, HEAD), bias="all", seed=1)), "bert/a")
    folder = _folder(shelf, "bert/a")
    assert [one.reference for one in ours.identify(folder).merged] == ["bert/a@1"]
    tensors = read_model(folder)
    plain = read_model(base.folder)
    assert tensors[f"{HEAD}.bias"] != plain[BIAS]
    write_model(folder, {**tensors, f"{HEAD}.bias": plain[BIAS]})
    assert ours.identify(folder).merged == ()
