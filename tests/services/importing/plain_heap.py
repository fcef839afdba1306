"""A small heap written by hand, with merged models computed without the registry; transformers knows none of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.kit import RawTensor, plain_base, read_tensors, write_tensors
from tests.kit.floats import Array
from tests.services.publishing.parent_house import SHAPES, House


class PlainHeap(House):
    """base net; support and legal on it; french on a merge of support; paris on a merge of both; and what is no use."""

    def __init__(self, folder: Path, *, base: str = "net") -> None:
        folder.mkdir(parents=True)
        self.folder, self.targets = folder, ["a", "b"]
        self.base = plain_base(folder / base, dtype="BF16", shapes=SHAPES)

    def fill(self) -> PlainHeap:
        """Write the adapters and the merged models."""
        self.helper = self.run("support", self.base.folder, seed=1)
        self.legal = self.run("legal", self.base.folder, seed=4)
        self.on_support = self.stepwise("merged-1", [self.helper])
        self.french = self.run("french", self.on_support, seed=2)
        self.on_french = self.stepwise("merged-2", [self.helper, self.french])
        self.paris = self.run("paris", self.on_french, seed=3)
        return self

    def save(self, name: str, values: dict[str, Array], dtype: str = "BF16") -> Path:
        """A model's folder with these weights; its configuration names no architecture, which costs seconds to find."""
        folder = super().save(name, values, dtype)
        (folder / "config.json").write_text("{}")
        return folder

    def run(self, name: str, trained_on: Path | str, **options: Any) -> Path:
        """An adapter that says what it was trained on."""
        return self.adapter(name, trained_on, **options)

    def trained_on(self, adapter: Path, folder: Path) -> Path:
        """The adapter, which says from now on that it was trained on that folder."""
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(folder)}))
        return adapter

    def halves(self, adapter: Path) -> tuple[Path, Path]:
        """Two adapters of half the rank, whose deltas add up to that of one."""
        config = json.loads((adapter / "adapter_config.json").read_text())
        rank = config["r"] // 2
        half = {"r": rank, "lora_alpha": config["lora_alpha"] / 2}
        made = []
        for number in (0, 1):
            folder = self.folder / f"{adapter.name}-half-{number}"
            folder.mkdir()
            (folder / "adapter_config.json").write_text(json.dumps(config | half))
            part = slice(number * rank, (number + 1) * rank)
            tensors = read_tensors(adapter / "adapter_model.safetensors")
            cut = {
                name: RawTensor.of(raw.values[part] if "lora_A" in name else raw.values[:, part], "F32")
                for name, raw in tensors.items()
            }
            write_tensors(folder / "adapter_model.safetensors", cut)
            made.append(folder)
        return made[0], made[1]

    def checkpoints(self, name: str, trained_on: Path, best: int | None) -> Path:
        """What a trainer leaves that was stopped: two checkpoints, and a state that may say which one is best."""
        run = self.folder / name
        history = [{"step": 10, "loss": 2.0}, {"step": 10, "eval_loss": 1.5, "eval_runtime": 3.0}]
        for step in (10, 20):
            self.adapter(f"{name}-made-{step}", trained_on, seed=40 + step)
            shutil.move(self.folder / f"{name}-made-{step}", run / f"checkpoint-{step}")
            state = {
                "global_step": step,
                "best_model_checkpoint": None if best is None else f"/old/{name}/checkpoint-{best}",
                "log_history": [*history, {"step": 20, "eval_loss": 1.7}][: 2 if step == 10 else 3],
            }
            (run / f"checkpoint-{step}/trainer_state.json").write_text(json.dumps(state))
        return run

    def tuned(self, name: str, size: float = 0.01) -> Path:
        """A full fine-tune of the base model."""
        random = np.random.default_rng(8)
        values = {tensor: one.values for tensor, one in self.base.reference([]).items()}
        moved = {tensor: value + size * random.standard_normal(value.shape) for tensor, value in values.items()}
        return self.save(name, moved)

    def rubbish(self) -> None:
        """Folders of other programs, broken ones, and links."""
        mlx = self.folder / "mlx"
        mlx.mkdir()
        (mlx / "adapters.safetensors").write_bytes(b"")
        shutil.copytree(self.helper, self.folder / "broken")
        (self.folder / "broken/adapter_model.safetensors").write_bytes(b"no")
        (self.folder / "deepspeed/global_step20").mkdir(parents=True)
        (self.folder / "deepspeed/zero_to_fp32.py").write_text("")
        (self.folder / "link").symlink_to(self.folder.parent)
        (self.folder / ".hidden").mkdir()


def state_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that a program could change in a folder: names, sizes, times, and how many names a file has."""
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink)
    return found
