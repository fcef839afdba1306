"""Adapters as they would be if a weight had been trained into their alpha: what a weighted path has to equal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path


def weighed(folder: Path, adapter: Path, weight: float) -> Path:
    """A copy of an adapter with all of its alphas multiplied by a weight, so that PEFT scales by ``w s``."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["alpha" if "alpha" in config else "lora_alpha"] *= weight  # of a LoHa or a LoKr
    config["alpha_pattern"] = {name: alpha * weight for name, alpha in config["alpha_pattern"].items()}
    file.write_text(json.dumps(config))
    return folder


def weighed_path(root: Path, path: Sequence[Path], weights: Sequence[float]) -> list[Path]:
    """All adapters of a path so."""
    return [weighed(root / str(at), one, weight) for at, (one, weight) in enumerate(zip(path, weights, strict=True))]
