"""The code that docs/pool.md shows, by section, and what it runs on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from registry.services.local import LocalRegistry
from tests.kit import bert_base, llama_base
from tests.kit.recipes import write_recipes
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors
from tests.kit.tokenizer_files import add_working_tokenizer
from tests.kit.variants import VARIANTS
from tests.root import ROOT

PAGE = (ROOT / "docs" / "pool.md").read_text(encoding="utf-8")


def blocks(heading: str) -> list[str]:
    """The Python blocks of a section of the page, up to the next heading."""
    _, found, rest = f"\n{PAGE}".partition(f"\n{heading}\n")
    assert found, heading
    return re.findall(r"```python\n(.*?)```", re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0], re.DOTALL)


def run(code: str, names: dict[str, Any]) -> None:
    """Run a block."""
    exec(compile(code, "<docs/pool.md>", "exec"), names)


def llama_tree(folder: Path) -> LocalRegistry:
    """A registry in ``folder``, beside a base model with its tokenizer, as the page has them."""
    base = llama_base(folder / "Llama-3.2-1B", dtype="BF16")
    add_working_tokenizer(base.folder)
    recipes = [replace(VARIANTS["llama"]["plain"], seed=seed) for seed in range(3)]
    support, french, code = write_recipes(folder / "made", base, recipes)
    team = LocalRegistry.open(folder / "registry", create=True)
    team.add_base("llama", base.folder)
    team.publish(support, "llama/support")
    team.publish(french, "llama/support")
    options: dict[str, Any] = {"parent": "llama/support@2", "skip_parent_check": True}
    team.publish(french, "llama/support/french", tags=("prod",), **options)
    team.publish(code, "llama/support/code", **options)
    return team


def encoder_tree(folder: Path, paths: Sequence[str]) -> LocalRegistry:
    """The same of an encoder and its classifiers, each a LoRA with a head of three labels, all tagged."""
    from transformers import AutoModelForSequenceClassification

    from tests.kit.peers import wrap

    base = bert_base(folder / "MiniLM")
    add_working_tokenizer(base.folder)
    team = LocalRegistry.open(folder / "registry", create=True)
    team.add_base("minilm", base.folder)
    model = AutoModelForSequenceClassification.from_pretrained(base.folder, num_labels=3)
    made = folder / "made"
    wrap(made, model, b_scale=1.0, target_modules=["query", "value"], task_type="SEQ_CLS")
    first = read_tensors(made / "adapter_model.safetensors")
    for seed, path in enumerate(paths):
        chance = np.random.default_rng(seed)
        values = {name: one.values + chance.normal(0, 0.5, one.shape) for name, one in first.items()}
        tensors = {name: RawTensor.of(one, first[name].dtype) for name, one in values.items()}
        write_tensors(made / "adapter_model.safetensors", tensors)
        team.publish(made, path, tags=("prod",))
    return team
