"""Drawn heaps of folders as teams leave them: merged by PEFT itself, with traps; and the true parent of every adapter.

``python -m tests.services.importing.import_heap N [FIRST]`` plans and applies as many and prints what came out.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from registry.schemas.publishing import ImportEntry
from registry.services.local import LocalRegistry
from tests.kit import Base, llama_base, read_model
from tests.kit.drawn import try_heaps
from tests.kit.peers import peft_merge
from tests.kit.recipes import Recipe, write_recipe

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Made:
    """An adapter of the heap: its folder, its parent's folder (None: nothing here is), and its path's adapters."""

    folder: Path
    trained_on: Path | str
    parent: Path | None
    adapters: tuple[Path, ...]


class DrawnHeap:
    """Folders below one root: base models, adapters and merged models, with what PEFT says about them."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random, self.count = root, random.Random(seed), 0
        self.dtype = self.random.choice(["BF16", "BF16", "F16", "F32"])
        hidden = self.random.choice([32, 64])
        self.sizes: dict[str, Any] = {"hidden": hidden, "mlp": 2 * hidden, "vocab": 64, "dtype": self.dtype}
        self.base = llama_base(self.place("models"), seed=seed, **self.sizes)
        self.stranger = llama_base(self.place("models"), seed=seed + 1000, **self.sizes)
        self.made: list[Made] = []
        self.copies: dict[Path, Path] = {}  # by the copy
        for _ in range(3):
            one = self.adapter(self.base.folder, self.base.folder, ())
            if self.random.random() < 0.8:
                child = self.adapter(self.merged(one.adapters), one.folder, one.adapters)
                if self.random.random() < 0.6:
                    self.adapter(self.merged(child.adapters), child.folder, child.adapters)
        self._traps()

    def place(self, above: str) -> Path:
        """A new folder's path, named so that it says nothing."""
        self.count += 1
        return self.root / above / f"{self.random.choice('abcdefgh')}{self.count}"

    def adapter(
        self,
        trained_on: Path | str,
        parent: Path | None,
        adapters: tuple[Path, ...],
        base: Base | None = None,
        *,
        trained: bool = True,
    ) -> Made:
        """A drawn adapter that says that it was trained on a folder."""
        draw = self.random
        recipe = Recipe(
            tuple(draw.sample(TARGETS, draw.randint(1, 4))),
            r=draw.choice([1, 2, 4]),
            rslora=draw.random() < 0.3,
            dora=draw.random() < 0.1,
            scale=draw.choice([0.05, 0.1, 0.3]) if trained else 0.0,
            seed=draw.randrange(10**6),
        )
        recipe = recipe if trained else replace(recipe, dora=False)
        folder = write_recipe(self.place("runs"), base or self.base, recipe)
        config = folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(trained_on)}))
        self.made.append(Made(folder, trained_on, parent, (*adapters, folder)))
        return self.made[-1]

    def merged(self, adapters: Sequence[Path], base: Base | None = None, dtype: str | None = None) -> Path:
        """The folder that PEFT makes, step by step."""
        folder = self.place("out")
        dtype = dtype or self.random.choice(["BF16", "BF16", "F16", "F32"])
        peft_merge((base or self.base).folder, list(adapters), DTYPES[dtype]).save_pretrained(folder)
        return folder

    def _traps(self) -> None:
        """What looks like something here: another base, a lost link, the links in another order."""
        first = self.made[0]
        self.adapter(self.stranger.folder, self.stranger.folder, (), self.stranger)
        self.adapter(self.merged(first.adapters, self.stranger), None, ())
        lost = self.adapter(self.base.folder, None, ())
        gone = self.merged([*first.adapters, lost.folder])
        self.made.remove(lost)
        shutil.rmtree(lost.folder)
        self.adapter(gone, None, ())
        long = [one for one in self.made if len(one.adapters) > 1]
        if long:
            one = self.random.choice(long)
            dtype = self.random.choice(["BF16", "F16", "F32"])
            turned = self.merged(one.adapters[::-1], dtype=dtype)
            sums = dtype == "F32" and not any(map(_rescales, one.adapters))  # real numbers, in any order
            same = sums or _bits(turned) == _bits(self.merged(one.adapters, dtype=dtype))
            self.adapter(turned, one.folder if same else None, one.adapters)
        self._untrained()
        self._copied()
        self._merged_beside()

    def _untrained(self) -> None:
        """Two that were never trained, and one that was, on a copy of the base model in another dtype."""
        for _ in range(2):
            self.adapter(self.base.folder, self.base.folder, (), trained=False)
        self.adapter(self.merged([], dtype="F32"), self.base.folder, ())

    def _copied(self) -> None:
        """A backup of an adapter, on one of which something was trained; in half of the heaps on both."""
        one = self.random.choice(self.made[:3])
        copy = self.root / "backup" / one.folder.name
        self.copies[shutil.copytree(one.folder, copy)] = one.folder
        self.adapter(copy, one.folder, one.adapters)
        if self.random.random() < 0.5:
            self.adapter(one.folder, one.folder, one.adapters)

    def _merged_beside(self) -> None:
        """As axolotl leaves them: an adapter that names a repository which is not here, and what it was merged into."""
        one = self.adapter("acme/tiny", self.base.folder, ())
        self.adapter(self.merged(one.adapters), one.folder, one.adapters)

    def truth(self, folder: str) -> str | None:
        """The place of the true parent of the adapter at a place."""
        one = self._made(folder)
        return None if one.parent is None else self._place(one.parent)

    def is_parent(self, folder: str, parent: str | None) -> bool:
        """Whether that is the true parent; a model that no path makes is one itself, where it comes in as a whole."""
        made = self._made(folder)
        true = made.parent or self.root / made.trained_on
        found = None if parent is None else self.root / parent
        return found is not None and self.copies.get(found, found) == self.copies.get(true, true)

    def _made(self, folder: str) -> Made:
        place = self.root / folder
        return next(made for made in self.made if made.folder == self.copies.get(place, place))

    def _place(self, folder: Path) -> str:
        return f"./{folder.relative_to(self.root).as_posix()}"


def _rescales(adapter: Path) -> bool:
    return bool(json.loads((adapter / "adapter_config.json").read_text()).get("use_dora"))


def _bits(folder: Path) -> dict[str, bytes]:
    return {name: raw.data for name, raw in read_model(folder).items()}


def try_heap(root: Path, seed: int) -> Counter[str]:
    """Plan and apply a heap; raises `AssertionError` at a wrong parent, in the plan or in the registry."""
    heap = DrawnHeap(root / "heap", seed)
    found: Counter[str] = Counter()
    with closing(LocalRegistry.open(root / "registry", create=True, cache_folder=root / "cache")) as registry:
        plan = registry.plan_import(heap.root)
        entries = {one.folder: one for one in plan.entries}
        for entry in plan.entries:
            if entry.what == "adapter":
                found[f"{'nothing' if heap.truth(entry.folder) is None else 'known'}: {entry.action}"] += 1
            if entry.action == "publish":
                _check(heap, entry, seed)
        for outcome in plan.apply():
            found[outcome.state] += 1
            if outcome.published is not None and entries[outcome.folder].parent in entries:
                above = entries[entries[outcome.folder].parent or ""]
                said = outcome.published.revision.parent
                assert said.partition("@")[0].rpartition("/")[2] == above.name, f"heap {seed}: {outcome}"
    return found


def _check(heap: DrawnHeap, entry: ImportEntry, seed: int) -> None:
    true = heap.truth(entry.folder)
    right = heap.is_parent(entry.folder, entry.parent)
    assert right, f"heap {seed}: {entry.folder} is planned on {entry.parent}, and it was {true}"


if __name__ == "__main__":
    try_heaps(try_heap)
