"""Heaps of folders whose receipts are lost: merged by PEFT itself, drawn by a seed, with traps, and the true parents.

``python -m tests.services.publishing.parent_heap N [FIRST]`` tries as many and prints what came out: how often the true
parent is *compared*, and *compared_untimed* where times tell nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry.errors import ConflictError, UsageError
from registry.services.local import LocalRegistry
from tests.kit import Base, RawTensor, llama_base, read_model, read_tensors, write_adapter, write_tensors
from tests.kit.drawn import try_heaps
from tests.kit.peers import peft_merge
from tests.kit.recipes import Recipe, write_recipe

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
DAY = 86_400.0
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Node:
    """A published revision."""

    reference: str
    adapters: tuple[Path, ...]  # of its path, root first
    adds: bool  # its links only add

    @property
    def path(self) -> str:
        return self.reference.partition("@")[0]


class Heap:
    """A tree of drawn adapters on a drawn base, and what is tried with it."""

    def __init__(self, folder: Path, registry: LocalRegistry, seed: int) -> None:
        self.folder, self.registry, self.random = folder, registry, random.Random(seed)
        self.seed, self.count = seed, 0
        self.outcomes: Counter[str] = Counter()
        dtype = self.random.choice(["BF16", "BF16", "F16", "F32"])
        hidden = self.random.choice([32, 64])
        sizes: dict[str, Any] = {"hidden": hidden, "mlp": 2 * hidden, "vocab": 64}
        self.base = llama_base(self.place(), dtype=dtype, seed=seed, tied=self.random.random() < 0.3, **sizes)
        self.stranger = llama_base(self.place(), dtype=dtype, seed=seed + 1000, **sizes)
        registry.add_base("net", self.base.folder)
        self.nodes: list[Node] = []
        self._grow()

    def place(self) -> Path:
        """A new folder's path."""
        self.count += 1
        return self.folder / f"made-{self.count}"

    def adapter(self) -> tuple[Path, bool]:
        """A drawn adapter, and whether it only adds."""
        draw = self.random
        recipe = Recipe(
            tuple(draw.sample(TARGETS, draw.randint(1, 4))),
            r=draw.choice([1, 2, 4]),
            rslora=draw.random() < 0.3,
            dora=draw.random() < 0.15,
            tokens={"embed_tokens": (3, 17)} if draw.random() < 0.1 else {},
            scale=draw.choice([0.05, 0.1, 0.3]),
            seed=draw.randrange(10**6),
        )
        return write_recipe(self.place(), self.base, recipe), not recipe.dora and not recipe.tokens

    def near(self, adapter: Path) -> Path:
        """The same adapter with one factor a little different: another revision, trained a little longer."""
        folder = self.place()
        shutil.copytree(adapter, folder)
        tensors = read_tensors(folder / "adapter_model.safetensors")
        key = self.random.choice(sorted(key for key in tensors if "lora_B" in key))
        noise = np.random.default_rng([self.seed, self.count]).standard_normal(tensors[key].values.shape)
        share = self.random.choice([0.02, 0.1, 0.5]) * np.linalg.norm(tensors[key].values) / np.linalg.norm(noise)
        changed = RawTensor.of(tensors[key].values + share * noise, "F32")
        write_tensors(folder / "adapter_model.safetensors", tensors | {key: changed})
        return folder

    def again(self, adapter: Path) -> Path:
        """The same adapter, saved again: other bytes, the same numbers."""
        folder = self.place()
        shutil.copytree(adapter, folder)
        tensors = read_tensors(folder / "adapter_model.safetensors")
        wide = {key: RawTensor.of(raw.values, "F64") for key, raw in reversed(tensors.items())}
        write_tensors(folder / "adapter_model.safetensors", wide)
        return folder

    def publish(self, adapter: Path, path: str, above: Node | None, adds: bool) -> Node:
        parent = None if above is None else above.reference
        revision = self.registry.publish(adapter, path, parent=parent).revision
        before = () if above is None else above.adapters
        node = Node(revision.reference, (*before, adapter), adds and (above is None or above.adds))
        if node.reference not in {one.reference for one in self.nodes}:
            self.nodes.append(node)
        return node

    def _grow(self) -> None:
        for name in ("a", "b", "c"):
            adapter, adds = self.adapter()
            root = self.publish(adapter, f"net/{name}", None, adds)
            if self.random.random() < 0.7:  # a second revision, nearly the same
                self.publish(self.near(adapter), f"net/{name}", None, adds)
            if self.random.random() < 0.8:
                below, adds = self.adapter()
                child = self.publish(below, f"net/{name}/x", root, adds)
                if self.random.random() < 0.5:
                    self.publish(self.near(below), f"net/{name}/x", root, adds)
                last, adds = self.adapter()
                self.publish(last, f"net/{name}/x/y", child, adds)
        one, other = self.nodes[0], next(node for node in self.nodes if node.path == "net/b")
        self.publish(other.adapters[0], "net/a/b", one, other.adds)  # the same two in both orders
        if self.random.random() < 0.6:
            self.publish(one.adapters[0], "net/b/a", other, one.adds)

    def dtype(self) -> str:
        """The dtype of a merge."""
        return self.random.choice(["BF16", "BF16", "F16", "F32"])

    def merged(self, adapters: Sequence[Path], base: Base | None = None, dtype: str | None = None) -> Path:
        """The folder that PEFT makes, step by step where there are several; in a drawn dtype unless given."""
        folder = self.place()
        model = peft_merge((base or self.base).folder, adapters, DTYPES[dtype or self.dtype()])
        model.save_pretrained(folder, max_shard_size=self.random.choice(["5GB", "5GB", "60KB", "20KB"]))
        return folder

    def child(self, folder: Path, *, timed: bool) -> Path:
        """An adapter that was trained on a folder, which was written a day before where it is ``timed``."""
        config = {"base_model_name_or_path": str(folder)}
        if timed:
            before = time.time() - DAY
            for file in folder.iterdir():
                os.utime(file, (before, before))
        return write_adapter(self.place(), self.base, ["q_proj"], r=2, seed=self.count, config=config)

    def tried(self, what: str, folder: Path, path: str, truth: str | None) -> None:
        """Publish a child of a folder; anything but its true parent, or a refusal, is a wrong pin.

        Once with times that tell, and once as in a heap that was copied without them: there nothing is proven.
        """
        for timed in (False, True):
            self._tried(what, folder, path, truth, timed=timed)

    def _tried(self, what: str, folder: Path, path: str, truth: str | None, *, timed: bool) -> None:
        name = f"{path}/n{self.count}"
        try:
            revision = self.registry.publish(self.child(folder, timed=timed), name, find_parent=True).revision
        except (UsageError, ConflictError) as problem:
            if problem.code not in {"parent_ambiguous", "parent_mismatch"}:
                raise
            self.outcomes[f"{what}: {problem.code}"] += 1
            return
        found, word = revision.parent, revision.parent_known_by
        assert found == truth, f"heap {self.seed}, {what}: {found} is pinned, and it was {truth} ({folder})"
        assert word == ("compared" if timed else "compared_untimed"), f"heap {self.seed}, {what}: {word} ({folder})"
        self.outcomes[f"{what}: {word}"] += 1

    def check(self) -> None:
        """Try every revision, and every trap."""
        for node in list(self.nodes):
            folder = self.merged(node.adapters)
            self.tried("revision", folder, node.path, node.reference)
            wrong = self.random.choice([one for one in self.nodes if one.path != node.path])
            self.tried("wrong path", folder, wrong.path, None)
        for node in self.random.sample(self.nodes, 2):  # trained on the adapter's folder, or on that saved again
            again = self.random.random() < 0.5
            self.tried(
                "adapter", self.again(node.adapters[-1]) if again else node.adapters[-1], node.path, node.reference
            )
            self.tried("unknown adapter", self.near(node.adapters[-1]), node.path, None)
        long = [node for node in self.nodes if len(node.adapters) > 1 and node.adds]
        paths = {node.adapters: node.reference for node in self.nodes}
        for node in self.random.sample(long, min(2, len(long))):
            turned, dtype = node.adapters[::-1], self.dtype()
            folder = self.merged(turned, dtype=dtype)
            # nothing shows the order in float32, nor where the links change other tensors: the sums are the path's
            same = dtype == "F32" or _bits(folder) == _bits(self.merged(node.adapters, dtype=dtype))
            self.tried("another order", folder, node.path, paths.get(turned, node.reference if same else None))
        for node in self.random.sample(self.nodes, 2):
            self.tried("unknown link", self.merged([*node.adapters, self.adapter()[0]]), node.path, None)
            self.tried("stranger's base", self.merged(node.adapters, self.stranger), node.path, None)


def _bits(folder: Path) -> dict[str, bytes]:
    return {name: raw.data for name, raw in read_model(folder).items()}


def try_heap(folder: Path, seed: int) -> Counter[str]:
    """Make a heap and try it; raises `AssertionError` at a wrong pin."""
    with closing(LocalRegistry.open(folder / "registry", create=True)) as registry:
        heap = Heap(folder, registry, seed)
        heap.check()
        return heap.outcomes


if __name__ == "__main__":
    try_heaps(try_heap)
