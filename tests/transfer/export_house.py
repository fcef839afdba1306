"""A registry whose names are told by their letters, for the tests of exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry.operations.registry import Registry
from registry.services.local import LocalRegistry
from tests.kit import Base, add_tokenizer, plain_base, read_tensors, write_adapter, write_tensors

BASE = "qxbase"
PARENT = f"{BASE}/qxacme"
CHILD = f"{PARENT}/qxbird"
CHILD_1 = f"{CHILD}@1"
TELLTALES = ("qxbase", "qxacme", "qxbird", "qxsecret", "qxfolder")
"""Names of the path, and words that a user wrote somewhere."""
README = """---
license: mit
language: [fr, qxacme-speak]
base_model: qxbase/qxacme
tags: [lora, qxbird, "base_model:adapter:/data/qxfolder"]
datasets: [squad]
---
# qxbird of qxsecret
"""


BASE_README = """---
license: llama3
library_name: transformers
pipeline_tag: text-generation
---
# the base model
"""


def net(folder: Path) -> Base:
    """A base model that is added in no time."""
    return plain_base(folder, {"q_proj.weight": (24, 16), "v_proj.weight": (16, 24)})


@dataclass
class House:
    """qxbase with its adapters qxacme@1, qxacme@2 and, on the latter, qxacme/qxbird@1."""

    folder: Path
    registry: Registry
    base: Base

    @classmethod
    def build(cls, folder: Path, registry: Registry, make: Callable[[Path], Base] = net) -> House:
        base = make(folder / "base")
        add_tokenizer(base.folder)
        (base.folder / "README.md").write_text(BASE_README)
        config = json.loads((base.folder / "config.json").read_text())
        (base.folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "/data/qxfolder/llama"}))
        registry.add_base(BASE, base.folder)
        for seed in (1, 2):
            made = write_adapter(folder / f"parent-{seed}", base, ["q_proj", "v_proj"], seed=seed)
            registry.publish(made, PARENT)
        trained_on = {"base_model_name_or_path": PARENT, "revision": "r2"}
        child = write_adapter(folder / "child", base, ["q_proj"], r=2, seed=3, config=trained_on)
        (child / "README.md").write_text(README)
        (child / "notes-qxbird.txt").write_text("qxsecret")
        add_tokenizer(child)
        told = {"name_or_path": f"./{PARENT}", "tokenizer_class": "PreTrainedTokenizerFast"}
        (child / "tokenizer_config.json").write_text(json.dumps(told))
        registry.publish(
            child,
            CHILD,
            message="for qxacme, qxsecret",
            metrics={"acc": 0.91, "acc_qxacme": 0.5},
            tags=["qxsecret"],
            annotations={"customer": "qxsecret"},
        )
        return cls(folder, registry, base)

    @property
    def digest(self) -> str:
        """Of qxacme/qxbird@1."""
        return self.registry.resolve(CHILD_1).digest

    def copy(self, name: str) -> LocalRegistry:
        """Another registry with all of it."""
        other = LocalRegistry.open(self.folder / name, cache_folder=self.folder / f"{name}-cache")
        self.registry.copy(BASE, other, recursive=True)
        return other

    def trained_on(self, folder: Path, name: str) -> Path:
        """An adapter that was trained on the model in a folder."""
        config = {"base_model_name_or_path": str(folder)}
        return write_adapter(self.folder / name, self.base, ["q_proj"], seed=9, config=config)


def opened(folder: Path) -> LocalRegistry:
    """An empty registry."""
    return LocalRegistry.open(folder / "registry", cache_folder=folder / "cache")


def with_metadata(folder: Path, metadata: dict[str, str]) -> None:
    """Give the weights of an adapter words beside their tensors."""
    place = folder / "adapter_model.safetensors"
    write_tensors(place, read_tensors(place), metadata)


def bytes_in(folder: Path) -> bytes:
    """All bytes and names of files of a folder."""
    files = (place for place in sorted(folder.rglob("*")) if place.is_file())
    return b"".join(place.relative_to(folder).as_posix().encode() + place.read_bytes() for place in files)
