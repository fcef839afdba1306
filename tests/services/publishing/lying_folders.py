"""Folders that adapters were trained on, as they lie there months later: what they were is known, what they show lies.

A world has a base model and a tree with siblings, several revisions, and revisions that are nearly the same. A case is
a folder, an adapter that was trained on it, and what happened to them before or since.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from registry.operations.registry import Registry
from tests.kit import RawTensor, read_model, read_tensors, write_adapter, write_model, write_tensors
from tests.kit.bases import llama_base, plain_base
from tests.kit.floats import Array, round_once
from tests.services.publishing.lying_clock import DAY, Clock
from tests.services.publishing.parent_house import House

SHAPES: Final = {
    "emb.weight": (40, 32), "a.weight": (48, 32), "b.weight": (32, 48), "c.weight": (32, 32), "norm.weight": (32,),
}  # fmt: skip
TRAINED: Final = 1_750_000_000.0
"""When adapters were saved. What they were trained on is older by a day; what happened since is newer by a month."""
ADAPTER: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Node:
    """A revision, or the base model."""

    reference: str
    adapters: tuple[Path, ...]  # of its path, root first

    @property
    def path(self) -> str:
        return self.reference.partition("@")[0]


@dataclass
class Case:
    """What a child was trained on, and where it is published."""

    lie: str
    home: Path
    truth: Node | None  # None: on no revision
    under: Node  # whose path it is published below
    shown: Node | None = None  # what there is to see now, where that is another revision
    child: Path = field(init=False)
    look_in: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        """What the child's configuration names, unless a lie says otherwise."""
        return self.home / "current"


class World(House):
    """net/support with near-duplicates, net/support/shop, and siblings of both under net/legal."""

    def __init__(self, folder: Path, registry: Registry, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock, self.count = Clock(), 0
        dtype = self.random.choice(["BF16", "BF16", "F16", "F32"])
        if seed % 4 == 3:  # tied weights, and names as transformers has them
            targets: tuple[str, ...] = ("q_proj", "down_proj")
            sizes: dict[str, Any] = {"layers": 1, "hidden": 32, "mlp": 48, "tied": True}
            super().__init__(folder, registry, llama_base, targets, dtype=dtype, seed=seed, **sizes)
        else:
            super().__init__(folder, registry, plain_base, dtype=dtype, seed=seed, shapes=SHAPES)
        self.dtype = dtype
        support, shop = self.support, self.shop
        self.nodes = [
            Node("net/support@1", (support[0],)),
            Node("net/support@2", (support[1],)),
            Node("net/support/shop@1", (support[0], shop)),
        ]
        for adapter in (self.scaled("support-earlier", support[0], 0.99), self.near("support-near", support[0], 0.003)):
            self._publish(adapter, "net/support", ())
        legal = self.adapter("legal", seed=4)
        self._publish(legal, "net/legal", ())
        self._publish(self.adapter("legal-later", seed=5), "net/legal", ())
        self._publish(shop, "net/legal/shop", (legal,), "net/legal@1")
        self._publish(self.near("shop-near", shop, 0.003), "net/support/shop", (support[0],), "net/support@1")

    def _publish(self, adapter: Path, path: str, above: tuple[Path, ...], parent: str | None = None) -> None:
        given: dict[str, Any] = {"parent": parent, "skip_parent_check": True} if parent else {}
        reference = self.registry.publish(adapter, path, **given).revision.reference
        self.nodes.append(Node(reference, (*above, adapter)))

    def scaled(self, name: str, adapter: Path, share: float) -> Path:
        """The adapter some steps earlier: its change is a little smaller."""
        folder = self.folder / name
        shutil.copytree(adapter, folder)
        tensors = read_tensors(folder / ADAPTER)
        smaller = {key: RawTensor.of(raw.values * share, "F32") for key, raw in tensors.items() if "lora_B" in key}
        write_tensors(folder / ADAPTER, tensors | smaller)
        return folder

    def stepwise(self, name: str, adapters: Sequence[Path], dtype: str = "BF16") -> Path:
        """As of a model that is loaded in the dtype, so that its weights are rounded before anything is merged."""
        found = {tensor: round_once(one.values, dtype) for tensor, one in self.base.reference([]).items()}
        before = {tensor: one.values for tensor, one in self.base.reference([]).items()}
        for adapter in adapters:
            alone = self.base.reference([adapter])
            for tensor, value in found.items():
                delta = round_once(alone[tensor].values - before[tensor], dtype)
                found[tensor] = round_once(value + delta, dtype)
        return self.save(name, found, dtype)

    def case(self, lie: str, among: Path | None = None) -> Case:
        """A drawn case of a lie; ``among`` others in one folder, where that is given."""
        self.count += 1
        home = (among or self.folder) / f"case-{self.count}"
        home.mkdir(parents=True)
        node = self.random.choice(self.nodes)
        case = Case(lie, home, node, node)
        LIES[lie](self, case)
        return case

    def other(self, case: Case) -> Node:
        """Another revision that is shown, rather a near one; who publishes may believe it."""
        truth = case.truth
        assert truth is not None
        near = [one for one in self.nodes if one.path == truth.path and one != truth]
        far = [one for one in self.nodes if one.path != truth.path]
        case.shown = self.random.choice(near if near and self.random.random() < 0.5 else far)
        case.under = self.random.choice([case.under, case.shown])
        return case.shown

    def weights(self, node: Node, dtype: str | None = None) -> dict[str, RawTensor]:
        """What a usual way of merging makes of a path: at once, or each link rounded."""
        dtype = dtype or self.dtype
        way = self.random.choice([self.merged, self.stepwise]) if len(node.adapters) > 1 else self.merged
        return read_model(way("merging", list(node.adapters), dtype))

    def write(self, folder: Path, weights: Mapping[str, RawTensor], shards: int = 1) -> Path:
        """A model's folder, as if it had always been so."""
        folder.mkdir(exist_ok=True)
        for old in folder.glob("model*"):
            old.unlink()
        config = (self.base.folder / "config.json").read_bytes()
        (folder / "config.json").write_bytes(config)
        write_model(folder, weights, shards)
        return folder

    def before(self, case: Case, weights: Mapping[str, RawTensor] | None = None, shards: int = 1) -> None:
        """The folder as it was, and the child that was trained on it."""
        if weights is None:
            assert case.truth is not None
            weights = self.weights(case.truth)
        self.clock.stamp(self.write(case.folder, weights, shards), TRAINED - DAY)
        self.train(case, case.folder)

    def train(self, case: Case, named: Path | str) -> None:
        """The child, whose configuration names something."""
        case.child = write_adapter(case.home / "run", self.base, self.targets, r=2, seed=self.count,
                                   config={"base_model_name_or_path": str(named)})  # fmt: skip
        self.clock.stamp(case.child, TRAINED)

    def now_holds(self, case: Case, weights: Mapping[str, RawTensor], shards: int = 1) -> None:
        """Something else is saved over the folder, a month later."""
        self.write(case.folder, weights, shards)
        self.clock.stamp(case.folder, TRAINED + 30 * DAY)

    def moved(self, case: Case, *, times: bool) -> None:
        """All of it is copied a year later, with its times or, one file after the other, without."""
        at = TRAINED + 365 * DAY
        for place in sorted(case.home.rglob("*")):
            at += 0.02
            self.clock.stamp(place, place.lstat().st_mtime if times else at, at) if place.is_file() else None

    def turned(self, values: Mapping[str, Array], dtype: str) -> dict[str, RawTensor]:
        """Weights of these values."""
        return {name: RawTensor.of(round_once(one, dtype), dtype) for name, one in values.items()}

    def changes(self, node: Node) -> tuple[dict[str, Array], dict[str, Array]]:
        """A path's weights, and the base's."""
        merged = self.base.reference(list(node.adapters))
        return ({name: one.values for name, one in merged.items()},
                {name: one.values for name, one in self.base.reference([]).items()})  # fmt: skip


# --- what holds: the truth is there to see ---


def _honest(world: World, case: Case) -> None:
    world.before(case)


def _other_dtype(world: World, case: Case) -> None:
    assert case.truth is not None
    dtype = world.random.choice([one for one in ("BF16", "F16", "F32") if one != world.dtype])
    world.before(case, world.weights(case.truth, dtype))


def _sharded(world: World, case: Case) -> None:
    assert case.truth is not None
    world.before(case, world.weights(case.truth), shards=3)


def _plain_base(world: World, case: Case) -> None:
    case.truth = case.under = Node("net", ())
    world.before(case, read_model(world.base.folder))


def _copied_with_times(world: World, case: Case) -> None:
    world.before(case)
    world.moved(case, times=True)


def _copied_without_times(world: World, case: Case) -> None:
    world.before(case)
    world.moved(case, times=False)


def _cloned(world: World, case: Case) -> None:
    world.before(case)
    world.clock.stamp(case.home, TRAINED + 90 * DAY)


def _touched(world: World, case: Case) -> None:
    world.before(case)
    world.clock.stamp(case.folder, TRAINED + 30 * DAY)


def _folder_renamed(world: World, case: Case) -> None:
    world.before(case)
    case.folder.rename(case.home / "renamed")
    world.clock.stamp(case.home / "renamed", TRAINED - DAY)
    case.look_in = (case.home,)


def _fetched(world: World, case: Case) -> None:
    _fetch(world, case, case.truth, TRAINED - DAY)
    world.train(case, case.folder)


def _receipt_alone(world: World, case: Case) -> None:
    _fetched(world, case)
    for file in case.folder.glob("*.safetensors"):
        file.unlink()


def _trained_on_adapter(world: World, case: Case) -> None:
    """Of an adapter whose files no other revision has."""
    last = [node.adapters[-1] for node in world.nodes]
    case.truth = case.under = world.random.choice([one for one in world.nodes if last.count(one.adapters[-1]) == 1])
    shutil.copytree(case.truth.adapters[-1], case.folder)
    world.clock.stamp(case.folder, TRAINED - DAY)
    world.train(case, case.folder)


def _fetch(world: World, case: Case, node: Node | None, when: float) -> None:
    assert node is not None
    world.registry.fetch(node.reference, case.folder, kind="merged", force=True)
    world.clock.stamp(case.folder, when)


# --- what lies: another revision is there to see, or something that is none ---


def _overwritten(world: World, case: Case) -> None:
    assert case.truth is not None
    world.before(case)
    world.now_holds(case, world.weights(world.other(case)))


def _overwritten_with_base(world: World, case: Case) -> None:
    world.before(case)
    world.now_holds(case, read_model(world.base.folder))
    case.shown = Node("net", ())
    case.under = world.random.choice([case.under, case.shown])


def _overwritten_then_cloned(world: World, case: Case) -> None:
    _overwritten(world, case)
    world.clock.stamp(case.home, TRAINED + 90 * DAY)


def _overwritten_then_copied(world: World, case: Case) -> None:
    _overwritten(world, case)
    world.moved(case, times=world.random.random() < 0.5)


def _overwritten_by_a_copy(world: World, case: Case) -> None:
    """With the times of where it was copied from, which are older than the adapter's."""
    _overwritten(world, case)
    world.clock.stamp(case.folder, TRAINED - 2 * DAY, TRAINED + 30 * DAY)


def _swapped(world: World, case: Case) -> None:
    """Another folder, as old, has the name now: no file of it was touched."""
    assert case.truth is not None
    world.before(case)
    case.folder.rename(case.home / "before")
    world.clock.stamp(case.home / "before", TRAINED - DAY)
    spare = world.write(case.home / "spare", world.weights(world.other(case)))
    spare.rename(case.folder)
    world.clock.stamp(case.folder, TRAINED - 2 * DAY)
    world.clock.changed[str(case.folder)] = TRAINED + 30 * DAY


def _repointed(world: World, case: Case) -> None:
    """The name is a link, which shows elsewhere now."""
    assert case.truth is not None
    for name, node, age in (("one", case.truth, DAY), ("two", world.other(case), 2 * DAY)):
        world.clock.stamp(world.write(case.home / name, world.weights(node)), TRAINED - age)
    case.folder.symlink_to(case.home / "two")
    world.train(case, case.folder)
    world.clock.stamp(case.folder, TRAINED + 30 * DAY)


def _half_overwritten(world: World, case: Case) -> None:
    """Some of its tensors are those of another merge: the copy was broken off."""
    assert case.truth is not None
    own, others = world.weights(case.truth), world.weights(world.other(case))
    world.before(case, own)
    world.now_holds(case, own | {name: others[name] for name in list(own)[: len(own) // 2]})


def _mixed_shards(world: World, case: Case) -> None:
    """Before the training: what was trained on is no revision, unless the two have the same in that shard."""
    assert case.truth is not None
    own, others = world.weights(case.truth), world.weights(world.other(case))
    taken = world.random.choice([list(own)[: len(own) // 3], list(own)[len(own) // 3 :]])
    mixed = own | {name: others[name] for name in taken}
    case.truth = case.truth if mixed == own else case.shown if mixed == others else None
    world.before(case, mixed, shards=3)


def _shard_lost(world: World, case: Case) -> None:
    _sharded(world, case)
    world.random.choice(sorted(case.folder.glob("model-*"))).unlink()


def _scaled(world: World, case: Case) -> None:
    """A checkpoint some steps earlier, which was never published."""
    assert case.truth is not None
    merged, base = world.changes(case.truth)
    share = world.random.choice([0.995, 0.98, 1.01])
    case.truth = None
    values = {name: base[name] + share * (one - base[name]) for name, one in merged.items()}
    world.before(case, world.turned(values, world.dtype))


def _noisy(world: World, case: Case) -> None:
    assert case.truth is not None
    merged, base = world.changes(case.truth)
    noise = np.random.default_rng(world.count)
    case.truth = None
    values = {name: one + 0.003 * noise.standard_normal(one.shape) * (one - base[name]) for name, one in merged.items()}
    world.before(case, world.turned(values, world.dtype))


def _row_replaced(world: World, case: Case) -> None:
    """One row of an embedding that no link changes."""
    assert case.truth is not None
    weights = world.weights(case.truth)
    name = next(name for name in weights if "emb" in name)
    values = weights[name].values.copy()
    row = np.random.default_rng(world.count).standard_normal(values.shape[1]) * 0.1
    values[world.random.randrange(len(values))] = row
    case.truth = None
    world.before(case, weights | {name: RawTensor.of(round_once(values, weights[name].dtype), weights[name].dtype)})


def _number_changed(world: World, case: Case) -> None:
    assert case.truth is not None
    weights = world.weights(case.truth)
    name = world.random.choice(sorted(weights))
    values = weights[name].values.copy()
    values.reshape(-1)[world.random.randrange(values.size)] *= 1.5
    case.truth = None
    world.before(case, weights | {name: RawTensor.of(round_once(values, weights[name].dtype), weights[name].dtype)})


def _tensors_renamed(world: World, case: Case) -> None:
    assert case.truth is not None
    world.before(case, {f"inner.{name}": raw for name, raw in world.weights(case.truth).items()})


def _more_merged(world: World, case: Case) -> None:
    """Something that was never published is merged on top."""
    assert case.truth is not None
    extra = write_adapter(case.home / "extra", world.base, world.targets, r=2, seed=1000 + world.count, size=0.05)
    weights = world.weights(Node("", (*case.truth.adapters, extra)))
    case.truth = None
    world.before(case, weights)


def _another_order(world: World, case: Case) -> None:
    """The path's links, merged in turn from the last on; where no rounding shows that, it is the path."""
    case.truth = case.under = world.random.choice([one for one in world.nodes if len(one.adapters) > 1])
    links = list(case.truth.adapters)
    turned = read_model(world.stepwise("merging", links[::-1], world.dtype))
    usual = [read_model(way("merging", links, world.dtype)) for way in (world.stepwise, world.merged)]
    if all(turned != one for one in usual):
        case.truth = None
    world.before(case, turned)


def _merged_in_memory(world: World, case: Case) -> None:
    """The configuration goes on naming the base, whose folder is as it always was."""
    case.shown = Node("net", ())
    case.under = world.random.choice([case.under, case.shown])
    world.clock.stamp(world.write(case.folder, read_model(world.base.folder)), TRAINED - DAY)
    world.train(case, case.folder)


def _fetched_again(world: World, case: Case) -> None:
    """Receipt and weights are those of another revision, which was fetched there since."""
    assert case.truth is not None
    _fetched(world, case)
    _fetch(world, case, world.other(case), TRAINED + 30 * DAY)


def _fetched_again_then_cloned(world: World, case: Case) -> None:
    _fetched_again(world, case)
    world.clock.stamp(case.home, TRAINED + 90 * DAY)


def _fetched_again_receipt_alone(world: World, case: Case) -> None:
    _fetched_again(world, case)
    for file in case.folder.glob("*.safetensors"):
        file.unlink()


def _foreign_receipt(world: World, case: Case) -> None:
    """The receipt of another revision lies beside the weights."""
    assert case.truth is not None
    _fetch(world, case, world.other(case), TRAINED - 2 * DAY)
    world.before(case)


def _adapter_overwritten(world: World, case: Case) -> None:
    assert case.truth is not None
    _trained_on_adapter(world, case)
    other = world.other(case)
    for name in (ADAPTER, "adapter_config.json"):
        shutil.copy(other.adapters[-1] / name, case.folder / name)
    world.clock.stamp(case.folder, TRAINED + 30 * DAY)


HONEST: Final[Mapping[str, Callable[[World, Case], None]]] = {
    "as it was": _honest,
    "another dtype": _other_dtype,
    "in shards": _sharded,
    "the base model": _plain_base,
    "fetched": _fetched,
    "receipt without weights": _receipt_alone,
    "trained on an adapter's folder": _trained_on_adapter,
    "copied with times": _copied_with_times,
    "copied without times": _copied_without_times,
    "cloned": _cloned,
}
"""The true parent is there to see."""

HIDDEN: Final[Mapping[str, Callable[[World, Case], None]]] = {
    "touched": _touched,
    "renamed": _folder_renamed,
    "tensors renamed": _tensors_renamed,
    "a shard lost": _shard_lost,
    "receipt of another beside it": _foreign_receipt,
}
"""It is not, or something speaks against it."""

LYING: Final[Mapping[str, Callable[[World, Case], None]]] = {
    "overwritten": _overwritten,
    "overwritten with the base": _overwritten_with_base,
    "overwritten, then cloned": _overwritten_then_cloned,
    "overwritten, then copied": _overwritten_then_copied,
    "overwritten by a copy with its times": _overwritten_by_a_copy,
    "swapped by renaming": _swapped,
    "link shows elsewhere": _repointed,
    "half overwritten": _half_overwritten,
    "shards of two": _mixed_shards,
    "some steps earlier": _scaled,
    "noise": _noisy,
    "a row replaced": _row_replaced,
    "a number changed": _number_changed,
    "more merged on top": _more_merged,
    "merged in another order": _another_order,
    "merged in memory": _merged_in_memory,
    "fetched again": _fetched_again,
    "fetched again, then cloned": _fetched_again_then_cloned,
    "fetched again, weights deleted": _fetched_again_receipt_alone,
    "adapter overwritten": _adapter_overwritten,
}
"""Something else is."""

LIES: Final = {**HONEST, **HIDDEN, **LYING}
