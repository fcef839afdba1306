"""What the examples of docstrings and of docs/python.md begin with: a registry, and folders that trainers left."""

from __future__ import annotations

import shutil
from pathlib import Path

import registry
from tests.kit import llama_base, write_adapter

REGISTRY = "my-registry"


def furnish(folder: Path) -> None:
    """A base model, adapters in ``out``, ``runs`` and ``share``, and a registry with the first of them."""
    base = llama_base(folder / "Llama-3.2-1B", dtype="BF16")
    for number, name in enumerate(("support", "support-2", "legal")):
        write_adapter(folder / "out" / name, base, ["q_proj", "v_proj"], r=4, seed=number)
    write_adapter(folder / "out" / "french", base, ["q_proj"], r=2, seed=7)
    config = {"base_model_name_or_path": str(folder / "Llama-3.2-1B")}
    write_adapter(folder / "share" / "billing", base, ["q_proj"], r=2, seed=8, config=config)
    write_adapter(folder / "share" / "who-knows", base, ["q_proj"], r=2, seed=9)
    shutil.copytree(folder / "out" / "legal", folder / "runs" / "legal")
    shutil.copytree(folder / "out" / "french", folder / "runs" / "legal" / "contracts")
    with registry.connect(folder / REGISTRY) as team:
        team.add_base("llama", folder / "Llama-3.2-1B")
        team.publish(folder / "out/support", "llama/support", message="tickets of 2025", metrics={"acc": 0.81})
        team.publish(folder / "out/support-2", "llama/support", metrics={"acc": 0.88}, tags=["prod"])
        team.publish(folder / "out/french", "llama/support/french", parent="llama/support@prod", metrics={"acc": 0.91})
