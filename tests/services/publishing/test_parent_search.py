"""The parent of an adapter whose folder nobody remembers: searched among all revisions, proven, or refused.

Heaps of folders that PEFT merged, receipts lost: every revision is found, and no trap is ever pinned.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from registry.catalogue.changes import fingerprints
from registry.catalogue.tree import bases
from registry.errors import (
    ConflictError,
    InvalidBaseError,
    NotFoundError,
    RegistryError,
    RetractedError,
    UsageError,
)
from registry.files.header import read_header
from registry.files.source import FileSource
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.local import LocalRegistry
from registry.tensors.comparison.fingerprint import base_sample, sample_values, unpacked
from tests.kit import RawTensor, plain_base, read_tensors, write_adapter, write_tensors
from tests.kit.floats import round_once
from tests.kit.serving import ServedRegistry
from tests.services.publishing.parent_heap import try_heap
from tests.services.publishing.parent_house import WEIGHTS, House, opened

SHAPES = {"a.weight": (96, 64), "b.weight": (64, 96), "c.weight": (64, 64), "norm.weight": (64,)}


class Share(House):
    """Besides the house's: net/legal@1 on ``a`` and ``b``, net/legal/shop@1 (the files of net/support/shop@1)."""

    def __init__(self, folder: Path, registry: Registry, local: LocalRegistry) -> None:
        super().__init__(folder, registry, shapes=SHAPES)
        self.local = local
        self.legal = self.adapter("legal", seed=4)
        registry.publish(self.legal, "net/legal")
        registry.publish(self.shop, "net/legal/shop")

    def find(self, child: Path, path: str, *look_in: Path) -> tuple[str, str, str]:
        """What is pinned, how that is known, and why."""
        answer = self.registry.publish(child, path, find_parent=True, look_in=look_in)
        return answer.revision.parent, answer.revision.parent_known_by, answer.parent_reason

    def lost(self, child: Path, path: str, *look_in: Path) -> RegistryError:
        return self.refused(child, path, find_parent=True, look_in=look_in)


@pytest.fixture(scope="module", params=["in process", pytest.param("over HTTP", marks=pytest.mark.slow)])
def share(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Share]:
    folder = tmp_path_factory.mktemp("share")
    local = opened(folder)
    registry = local if request.param == "in process" else ServedRegistry(local, folder / "client")
    with closing(registry):
        yield Share(folder, registry, local)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("stepwise", [False, True], ids=["at once", "stepwise"])
def test_the_parent_is_found_among_all_and_proven_by_whole_tensors(share: Share, dtype: str, stepwise: bool) -> None:
    merge = share.stepwise if stepwise else share.merged
    name = f"{merge.__name__}-{dtype}"
    folder = merge(f"merged-{name}", [share.support[0], share.shop], dtype)
    parent, known_by, reason = share.find(share.adapter(f"child-{name}", folder), f"net/support/shop/{name.lower()}")
    assert (parent, known_by) == ("net/support/shop@1", "compared")
    assert "equal in 4 of 4 tensors" in reason
    assert {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}[dtype] in reason
    assert str(folder) in reason


def test_a_dry_run_says_the_same_and_stores_nothing(share: Share) -> None:
    child = share.adapter("dry", share.merged("merged-dry", [share.legal]))
    before = share.registry.search().revisions
    preview = share.registry.preview(child, "net/legal/dry", find_parent=True)
    assert (preview.parent, preview.parent_known_by) == ("net/legal@1", "compared")
    assert "equal in 4 of 4" in preview.parent_reason
    assert share.registry.search().revisions == before
    with pytest.raises(UsageError) as refused:
        share.registry.preview(share.adapter("dry-lost", "gone"), "net/legal/dry", find_parent=True)
    assert refused.value.code == "parent_ambiguous"


def test_a_parent_elsewhere_in_the_tree_says_where_to_publish(share: Share) -> None:
    child = share.adapter("elsewhere", share.merged("merged-elsewhere", [share.legal]))
    problem = share.lost(child, "net/support/elsewhere")
    assert (problem.code, type(problem)) == ("parent_mismatch", ConflictError)
    assert "publish under net/legal" in str(problem)


def test_one_other_number_is_no_proof(share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples don't see it, nor does a block of each tensor; whole tensors do."""
    monkeypatch.setattr("registry.tensors.comparison.candidates.ELEMENTS", 512)
    values = share.values(share.merged("merged-number", [share.legal]))
    for tensor, at in (("b.weight", (3, 70)), ("c.weight", (60, 9))):
        changed = {name: value.copy() for name, value in values.items()}
        changed[tensor][at] *= 1.5
        problem = share.lost(share.adapter(f"n-{tensor}", share.save(f"m-{tensor}", changed)), "net/legal/number")
        assert problem.code == "parent_ambiguous"
        assert "the nearest are net/legal@1 (" in str(problem)
        assert "--receipt FILE" in str(problem)


def test_revisions_that_differ_in_one_tensor_are_told_apart(share: Share) -> None:
    tensors = read_tensors(share.legal / "adapter_model.safetensors")
    near = share.folder / "near"
    shutil.copytree(share.legal, near)
    key = next(key for key in tensors if "b.lora_B" in key)
    noise = np.random.default_rng(3).standard_normal(tensors[key].values.shape) * 0.02
    write_tensors(near / "adapter_model.safetensors", tensors | {key: RawTensor.of(tensors[key].values + noise, "F32")})
    share.registry.publish(near, "net/legal")
    for number, one in ((1, share.legal), (2, near)):
        folder = share.stepwise(f"merged-near-{number}", [one])
        assert share.find(share.adapter(f"near-{number}", folder), "net/legal/near")[0] == f"net/legal@{number}"


def test_what_was_never_published_is_refused_with_the_nearest(share: Share) -> None:
    unknown = share.adapter("unknown", seed=77)
    child = share.adapter("of-unknown", share.stepwise("merged-unknown", [share.support[1], unknown]))
    problem = share.lost(child, "net/support/of-unknown")
    assert (problem.code, type(problem)) == ("parent_ambiguous", UsageError)
    assert "net/support@2 (" in str(problem)


def test_an_adapter_whose_folder_is_gone_is_not_assumed(share: Share) -> None:
    for trained_on in ("gone/merged", None, "meta-llama/Llama-3"):
        problem = share.lost(share.adapter(f"gone-{trained_on}".replace("/", "-"), trained_on), "net/gone")
        assert problem.code == "parent_ambiguous"
        assert "--look-in DIR" in str(problem)


def test_an_adapter_that_was_trained_on_another_adapters_folder(share: Share) -> None:
    parent, known_by, reason = share.find(share.adapter("on-legal", share.legal), "net/legal/on-adapter")
    assert (parent, known_by) == ("net/legal@1", "compared")
    assert "it holds the adapter of that revision, file by file" in reason
    assert share.lost(share.adapter("on-legal-2", share.legal), "net/support/on-adapter").code == "parent_mismatch"
    stranger = share.adapter("stranger", seed=91)
    problem = share.lost(share.adapter("on-stranger", stranger), "net/legal/on-stranger")
    assert problem.code == "parent_ambiguous"
    assert "are those of none of the" in str(problem)


def test_an_adapter_that_was_saved_again_is_known_by_its_numbers(share: Share) -> None:
    again = share.folder / "again"
    again.mkdir()
    config = json.loads((share.legal / "adapter_config.json").read_text())
    (again / "adapter_config.json").write_text(json.dumps(config | {"inference_mode": True}, indent=4))
    tensors = read_tensors(share.legal / "adapter_model.safetensors")
    wide = {key: RawTensor.of(raw.values, "F64") for key, raw in reversed(tensors.items())}
    write_tensors(again / "adapter_model.safetensors", wide)
    parent, _, reason = share.find(share.adapter("on-again", again), "net/legal/on-again")
    assert (parent, "saved again: all of its numbers are equal" in reason) == ("net/legal@1", True)
    assert share.registry.identify(again).published == ("net/legal@1",)
    scaled = share.folder / "scaled"  # the same weights, another scaling
    shutil.copytree(share.legal, scaled)
    (scaled / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 5 * config["lora_alpha"]}))
    assert share.lost(share.adapter("on-scaled", scaled), "net/legal/on-scaled").code == "parent_ambiguous"
    key = next(key for key in wide if "lora_B" in key)
    values = tensors[key].values.copy()
    values[0, 0] = np.nextafter(values[0, 0], 1)  # one number, in its last place
    write_tensors(again / "adapter_model.safetensors", wide | {key: RawTensor.of(values, "F64")})
    assert share.registry.identify(again).published == ()


def test_of_revisions_with_the_same_files_what_the_folder_was_trained_on_tells(share: Share) -> None:
    problem = share.lost(share.adapter("on-shop", share.shop), "net/support/shop/on-shop")
    assert problem.code == "parent_ambiguous"
    assert "net/support/shop@1" in str(problem)
    assert "net/legal/shop@1" in str(problem)
    for name, above in (("support", share.support[0]), ("legal", share.legal)):
        (share.folder / f"{name}-tree").mkdir()
        share.merged(f"{name}-tree/base", [above])
        run = share.adapter(f"{name}-tree/run", "../base", seed=61)
        share.registry.publish(run, f"net/{name}/same", find_parent=True)
        parent = share.find(share.adapter(f"on-same-{name}", run), f"net/{name}/same/child")[0]
        assert parent == f"net/{name}/same@1"


def test_a_folder_that_is_no_merged_model_proves_nothing(share: Share) -> None:
    wide = {name: tuple(2 * size for size in shape) for name, shape in SHAPES.items()}
    other = plain_base(share.folder / "wide-base", shapes=wide)
    foreign = write_adapter(share.folder / "wide", other, ["a"], r=2, seed=5)
    problem = share.lost(share.adapter("on-wide", foreign), "net/legal/on-wide")
    assert problem.code == "parent_ambiguous"
    assert "it holds an adapter that fits no base model here" in str(problem)


def test_a_revision_that_changes_what_the_folder_lacks_is_not_it(share: Share) -> None:
    other = share.adapter("on-c", seed=41, targets=["c"], size=1e-4)  # so small that samples leave it
    share.registry.publish(other, "net/on-c")
    folder = share.save(
        "lacks-c", {name: one for name, one in share.values(share.base.folder).items() if name[0] != "c"}
    )
    child = share.adapter("of-lacks-c", folder)
    assert share.find(child, "net/of-lacks-c")[0] == "net"
    assert share.lost(child, "net/on-c/child").code == "parent_mismatch"


def test_a_folder_that_moved_is_found_by_its_name(share: Share) -> None:
    there = share.folder / "moved"
    for number, run in enumerate(("run-1", "run-2")):
        (there / run).mkdir(parents=True)
        shutil.move(share.merged(f"moving-{number}", [share.support[number]]), there / run / "merged")
    for number in (1, 2):
        child = share.adapter(f"moved-{number}", f"/scratch/run-{number}/merged")
        parent, _, reason = share.find(child, "net/support/moved", there)
        assert parent == f"net/support@{number}"
        assert str(there / f"run-{number}" / "merged") in reason
    problem = share.lost(share.adapter("moved-3", "merged"), "net/support/moved", there)
    assert (problem.code, "2 folders may be merged" in str(problem)) == ("parent_ambiguous", True)
    assert share.find(share.adapter("moved-4", "merged"), "net/support/m4", there / "run-2")[0] == "net/support@2"
    assert share.lost(share.adapter("moved-5", "other"), "net/support/moved", there).code == "parent_ambiguous"
    with pytest.raises(NotFoundError):
        share.find(share.adapter("moved-6", "other"), "net/support/moved", share.folder / "nowhere")


@pytest.fixture
def orders(tmp_path: Path) -> Iterator[Share]:
    """net/x, net/y, and net/x/y: links that only add, so that their sum is the same in any order."""
    with closing(opened(tmp_path)) as local:
        share = Share(tmp_path, local, local)
        for name, seed in (("x", 21), ("y", 22)):
            local.publish(share.adapter(name, seed=seed, size=0.3), f"net/{name}")
        local.publish(share.folder / "y", "net/x/y")
        yield share


def test_an_order_that_no_path_has_is_not_pinned(orders: Share) -> None:
    links = [orders.folder / "y", orders.folder / "x"]
    problem = orders.lost(orders.adapter("turned", orders.stepwise("merged-turned", links)), "net/x/y/turned")
    assert problem.code == "parent_ambiguous"
    assert "merging net/x/y@1 then net/x@1: their roundings show that order" in str(problem)
    # at once no order shows, and there is one path
    for number, folder in enumerate((orders.merged("turned-1", links), orders.stepwise("turned-2", links[::-1]))):
        child = orders.adapter(f"straight-{number}", folder)
        assert orders.find(child, f"net/x/y/c{number}")[0] == "net/x/y@1"


def test_the_order_shows_which_path_it_is_or_none_is_pinned(orders: Share) -> None:
    """In 16 bits, merged step by step, it shows; at once, or in fp32, it does not, and both are named."""
    x, y = orders.folder / "x", orders.folder / "y"
    orders.registry.publish(x, "net/y/x")
    for number, (path, adapters) in enumerate({"net/x/y": [x, y], "net/y/x": [y, x]}.items()):
        for dtype in ("BF16", "F16"):
            folder = orders.stepwise(f"merged-{dtype}-{number}", adapters, dtype)
            child = orders.adapter(f"order-{dtype}-{number}", folder)
            assert orders.find(child, f"{path}/{dtype.lower()}")[0] == f"{path}@1"
        for name, folder in (
            ("once", orders.merged(f"once-{number}", adapters)),
            ("fp32", orders.stepwise(f"fp32-{number}", adapters, "F32")),
        ):
            problem = orders.lost(orders.adapter(f"both-{name}-{number}", folder), f"{path}/both")
            assert problem.code == "parent_ambiguous"
            assert "net/x/y@1" in str(problem)
            assert "net/y/x@1" in str(problem)
            child = orders.adapter(f"settled-{name}-{number}", folder)
            given = {"parent": f"{path}@1", "find_parent": True}
            assert orders.pinned(child, f"{path}/settled-{name}", **given) == (f"{path}@1", "compared")


def test_paths_that_stand_for_the_same_function_are_one(orders: Share) -> None:
    """What was never trained, or saved again, makes nothing ambiguous: the path of the new adapter says which it is."""
    orders.registry.publish(orders.adapter("zero", seed=41, size=0.0), "net/zero")
    weights = read_tensors(orders.folder / "x" / "adapter_model.safetensors")
    again = shutil.copytree(orders.folder / "x", orders.folder / "x-again")
    wide = {name: RawTensor.of(one.values, "F64") for name, one in weights.items()}
    write_tensors(again / "adapter_model.safetensors", wide)
    orders.registry.publish(again, "net/again")
    on_base, on_x = orders.merged("fp32", [], "F32"), orders.merged("on-x", [orders.folder / "x"])
    for path, folder, parent in (
        ("net/c", on_base, "net"), ("net/zero/c", on_base, "net/zero@1"),
        ("net/x/c", on_x, "net/x@1"), ("net/again/c", on_x, "net/again@1"),
    ):  # fmt: skip
        assert orders.find(orders.adapter(path.replace("/", "-"), folder), path)[0] == parent
    found = orders.registry.identify(on_base).merged
    assert [one.reference for one in found] == ["net", "net/zero@1"]


def test_a_strangers_base_is_refused_and_another_base_here_is_named(share: Share, tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as local:
        stranger = Share(tmp_path, local, local)
        foreign = House(tmp_path / "foreign", opened(tmp_path / "foreign"), shapes=SHAPES, seed=9)
        folder = foreign.merged("merged", [foreign.support[0]])
        child = stranger.adapter("child", folder)
        assert stranger.lost(child, "net/support/child").code == "parent_ambiguous"
        local.add_base("foreign", foreign.base.folder)
        local.publish(foreign.support[0], "foreign/support")
        problem = stranger.lost(child, "net/support/child")
        assert problem.code == "parent_mismatch"
        assert "publish under foreign/support" in str(problem)
        assert stranger.find(child, "foreign/support/child")[0] == "foreign/support@1"


def test_what_a_token_does_not_see_is_not_searched(share: Share) -> None:
    rights = Rights("writer", (TreePath.parse("net/legal"),))
    limited = share.local.with_principal(Principal("limited", rights))
    child = share.adapter("limited", share.merged("merged-limited", [share.support[0]]))
    with pytest.raises(UsageError) as refused:
        limited.publish(child, "net/legal/limited", find_parent=True)
    assert "support" not in str(refused.value).replace(str(share.folder), "")


def test_a_retracted_revision_is_recognised_and_refused(share: Share) -> None:
    bad = share.adapter("bad", seed=31)
    share.registry.publish(bad, "net/bad")
    share.registry.retract("net/bad@1", reason="wrong data")
    folder = share.merged("merged-bad", [bad])
    child = share.adapter("of-bad", folder)
    with pytest.raises((RetractedError, UsageError)) as refused:
        share.registry.publish(child, "net/bad/child", find_parent=True)
    assert "net/bad@1" in str(refused.value)
    assert "retracted" in str(refused.value)
    found = share.registry.identify(folder)
    assert [*(one.reference for one in found.merged), *found.retracted] == ["net/bad@1"]


def test_a_retracted_revision_that_samples_leave_is_told_from_the_parent(share: Share) -> None:
    """It differs in one row, of which no sample is taken; a service gives only the other one to be compared."""
    first = share.adapter("row", seed=32)
    other = share.folder / "other-row"
    shutil.copytree(first, other)
    tensors = read_tensors(first / "adapter_model.safetensors")
    key = next(key for key in tensors if "b.lora_B" in key)
    values = tensors[key].values.copy()
    with FileSource(share.base.folder / WEIGHTS) as source:
        sample = base_sample(read_header(source, what="base", error=InvalidBaseError).entries)
    (chosen,) = (one for one in sample.tensors if one.tensor == "b.weight")
    row = min(set(range(len(values))) - {offset // 96 for offset in chosen.offsets})
    values[row] *= 3
    write_tensors(other / "adapter_model.safetensors", tensors | {key: RawTensor.of(values, "F32")})
    for adapter in (first, other):
        share.registry.publish(adapter, "net/row")
    share.registry.retract("net/row@1", reason="wrong data")
    child = share.adapter("of-row-2", share.stepwise("merged-row-2", [other]))
    assert share.find(child, "net/row/child")[0] == "net/row@2"
    child = share.adapter("of-row-1", share.stepwise("merged-row-1", [first]))
    with pytest.raises((RetractedError, UsageError)) as refused:
        share.registry.publish(child, "net/row/child", find_parent=True)
    assert "net/row@1" in str(refused.value)


def test_fingerprints_are_kept_and_equal_an_independent_merge(share: Share) -> None:
    share.find(share.adapter("kept", share.merged("merged-kept", [share.legal])), "net/legal/kept")
    with ExitStack() as files:
        source = files.enter_context(FileSource(share.base.folder / WEIGHTS))
        entries = read_header(source, what="base", error=InvalidBaseError).entries
        sample = base_sample(entries)
        own = sample_values(sample, {name: (source, entry) for name, entry in entries.items()}).values.float()
    with share.local.deployment.read() as session:
        base = bases.get(session, "net")
        keys = {one.reference: one.above for one in fingerprints.searched(session, base.id)}
        above = keys["net/support/shop@1"]
        kept = fingerprints.kept(session, above, base.table_digest)
        assert not fingerprints.kept(session, above, "sha256:of-another-table")
    for key, adapters in zip(above, ([share.support[0]], [share.support[0], share.shop]), strict=True):
        exact, found = share.base.reference(adapters), unpacked(kept[key], sample, own)
        assert found is not None
        for chosen in sample.tensors:
            expected = exact[chosen.tensor].values.ravel()[chosen.offsets]
            assert np.allclose(found[sample.slices[chosen.tensor]].numpy(), expected, rtol=2.0**-23, atol=0)
    other = base_sample({name: entry for name, entry in entries.items() if name != "c.weight"})
    assert unpacked(kept[above[0]], other, own) is None


def test_a_merged_folder_is_identified(share: Share) -> None:
    links = [share.support[0], share.shop]
    found = share.registry.identify(share.stepwise("id-stepwise", links))
    assert (found.kind, found.reason, found.nearest) == ("model", None, None)
    (one,) = found.merged
    assert (one.reference, one.links) == ("net/support/shop@1", ("net/support@1", "net/support/shop@1"))
    assert "equal in 4 of 4 tensors" in one.proof
    assert found.searched == len(share.registry.search(all_revisions=True).revisions)
    base = share.registry.identify(share.base.folder)
    assert [(one.reference, one.links) for one in base.merged] == [("net", ())]


def test_a_link_that_nobody_published_is_told_with_its_size(share: Share) -> None:
    unknown = share.adapter("id-unknown", seed=78)
    folder = share.merged("id-merged", [share.legal, unknown], "F32")
    found = share.registry.identify(folder)
    assert (found.merged, found.nearest) == ((), "net/legal@1")
    values = share.values(folder)
    known = {tensor: one.values for tensor, one in share.base.reference([share.legal]).items()}
    rest = np.sqrt(sum(np.square(values[tensor] - known[tensor]).sum() for tensor in known))
    size = np.sqrt(sum(np.square(one).sum() for one in known.values()))
    assert found.distance == pytest.approx(rest / size, rel=0.3)  # of what was read


def test_siblings_that_a_script_summed_are_hinted_at(share: Share) -> None:
    weights = {"net/support@1": (share.support[0], 0.3), "net/legal@1": (share.legal, 0.7)}
    values = share.summed(dict(weights.values()))
    for dtype, error in (("BF16", 0.05), ("F32", 1e-3)):
        found = share.registry.identify(share.save(f"id-sum-{dtype}", values, dtype))
        assert found.merged == ()
        assert {one.reference for one in found.sum} == set(weights)
        for link in found.sum:
            assert link.weight == pytest.approx(weights[link.reference][1], abs=error)
    strange = share.merged("id-sum-strange", [share.legal, share.adapter("id-sum-unknown", seed=79)], "F32")
    for folder in (strange, share.merged("id-sum-none", [share.legal])):
        assert share.registry.identify(folder).sum == ()


def test_sums_are_named_with_their_weights_among_steps_of_one_training(tmp_path: Path) -> None:
    """What is nearly the same is told apart, or both are named; and the nearest is the first of what is near."""
    with closing(opened(tmp_path)) as local:
        share = Share(tmp_path, local, local)
        for number, apart in enumerate((0.003, 0.01, 0.1)):
            local.publish(share.near(f"step-{number}", share.legal, apart), f"net/step-{number}")
        one, other = share.support[0], share.legal
        sums = {
            "twice": ({other: 2.0}, share.save("twice", share.summed({other: 2.0}))),
            "stepwise": ({one: 1.0, other: 1.0}, share.stepwise("stepwise", [one, other])),
            "typed": ({one: 0.4, other: 0.6}, share.save("typed", share.summed({one: 0.4, other: 0.6}), "F32")),
            "drawn": (
                {one: 1.2345, other: -0.4567},
                share.save("d", share.summed({one: 1.2345, other: -0.4567}), "F32"),
            ),
        }
        names = {one: "net/support@1", other: "net/legal@1"}
        for name, (weights, folder) in sums.items():
            found = local.identify(folder)
            assert found.merged == ()
            assert (found.nearest, found.distance) == (found.near[0].reference, found.near[0].distance), name
            assert len(found.sum) == len(weights), name
            for adapter, weight in weights.items():
                (link,) = (link for link in found.sum if names[adapter] in (link.reference, *link.alike))
                assert link.weight == pytest.approx(weight, abs=0.01 if name == "stepwise" else 1e-4), name
                assert link.alike == () or name in {"twice", "stepwise"}, name


def test_an_adapter_is_identified_by_what_it_was_trained_on(share: Share) -> None:
    folder = share.merged("id-trained", [share.legal])
    found = share.registry.identify(share.adapter("id-child", folder, seed=93))
    assert (found.kind, found.trained_on, found.bases) == ("adapter", str(folder), ("net",))
    assert [one.reference for one in found.merged] == ["net/legal@1"]
    assert found.published == ()
    on_legal = share.registry.identify(share.adapter("id-on-legal", share.legal))
    assert [one.links for one in on_legal.merged] == [("net/legal@1",)]
    assert set(share.registry.identify(share.shop).published) == {"net/support/shop@1", "net/legal/shop@1"}
    gone = share.adapter("id-gone", "/scratch/id-moved/merged")
    found = share.registry.identify(gone)
    assert (found.merged, found.bases) == ((), ("net",))
    assert "not there" in str(found.reason)
    (share.folder / "id-moved").mkdir()
    shutil.move(folder, share.folder / "id-moved" / "merged")
    assert [one.reference for one in share.registry.identify(gone, look_in=[share.folder]).merged] == ["net/legal@1"]
    with pytest.raises(NotFoundError):
        share.registry.identify(share.folder / "nothing")


def test_the_order_of_the_links_is_told(orders: Share) -> None:
    x, y = orders.folder / "x", orders.folder / "y"
    (stepwise,) = orders.registry.identify(orders.stepwise("id-xy", [x, y])).merged
    assert (stepwise.links, stepwise.order_shows) == (("net/x@1", "net/x/y@1"), True)
    (at_once,) = orders.registry.identify(orders.merged("id-once", [x, y])).merged
    assert (at_once.links, at_once.order_shows) == (("net/x@1", "net/x/y@1"), False)
    turned = orders.registry.identify(orders.stepwise("id-yx", [y, x]))
    assert (turned.merged, turned.unknown_order) == ((), ("net/x/y@1", "net/x@1"))


def test_the_order_shows_where_a_float32_base_was_loaded_in_16_bits(tmp_path: Path) -> None:
    """What only one link changes is then two roundings away from the base: that of loading it, and that of the sum."""
    with closing(opened(tmp_path)) as local:
        house = House(tmp_path, local, shapes={"a.weight": (16, 8), "b.weight": (24, 16)}, dtype="F32")
        x = house.adapter("x", seed=21, size=0.05)
        y = house.adapter("y", seed=22, size=0.05, targets=["a"])
        local.publish(x, "net/x")
        local.publish(y, "net/x/y")
        whole = {tensor: one.values for tensor, one in house.base.reference([]).items()}
        for number, links in enumerate(([x, y], [y, x])):
            found = {tensor: round_once(value, "F16") for tensor, value in whole.items()}
            for link in links:
                after = house.base.reference([link])
                found = {
                    name: round_once(held + after[name].values - whole[name], "F16") for name, held in found.items()
                }
            told = local.identify(house.save(f"merged-{number}", found, "F16"))
            if number:
                assert (told.merged, told.unknown_order) == ((), ("net/x/y@1", "net/x@1"))
            else:
                assert [one.reference for one in told.merged] == ["net/x/y@1"]


@pytest.mark.long_on("1")
@pytest.mark.slow
@pytest.mark.usefixtures("real_times")
@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 30))])
def test_no_wrong_pin(tmp_path: Path, seed: int) -> None:
    outcomes = try_heap(tmp_path, seed)
    revisions = {what: count for what, count in outcomes.items() if what.startswith("revision")}
    lost = revisions.pop("revision: parent_ambiguous", 0)
    assert set(revisions) == {"revision: compared", "revision: compared_untimed"}
    assert revisions["revision: compared"] == revisions["revision: compared_untimed"] > lost
    traps = [what for what in outcomes if what.startswith(("unknown", "stranger", "wrong"))]
    assert not any("compared" in what for what in traps)
