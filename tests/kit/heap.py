"""A heap of folders as strangers bring them: made by PEFT and transformers' Trainer, and two layouts written by hand.

By hand: what TRL leaves (it is no dependency of the tests) is what its parent class, the Trainer, leaves, with a model
card, a tokenizer and a chat template, at the top and in every checkpoint; and mlx's two files.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from registry.services.local import LocalRegistry
from tests.kit.bases import Base, add_tokenizer, llama_base
from tests.kit.peers import between_themselves, load_model, peft_merge, save_model, wrap
from tests.kit.tensor_files import RawTensor, read_tensors, write_tensors

LINEAR: Final = ("q_proj", "v_proj", "down_proj")
WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a folder."""

    state: str  # of `registry.schemas.FolderOutcome`
    code: str | None = None  # where it is refused
    notice: str | None = None  # a part of one
    left_out: frozenset[str] = frozenset()
    known_by: str = "named"  # how its parent is known, where it is published: mostly the folder of the base model


_TRAINER_LEFT: Final = frozenset({"training_args.bin", "checkpoint-1", "checkpoint-2"})

VERDICTS: Final[dict[str, Verdict]] = {
    "rslora": Verdict("published", left_out=frozenset({"with-receipt", "without-receipt"})),
    "rslora/with-receipt": Verdict("published", known_by="receipt"),
    "rslora/without-receipt": Verdict("published", known_by="compared"),
    "on-the-base": Verdict("published"),
    "dora": Verdict("published", notice="is a DoRA"),
    "embeddings-and-head": Verdict("published"),
    "embeddings-with-copies": Verdict("published"),
    "trainer": Verdict("published", left_out=_TRAINER_LEFT),
    "trl": Verdict("published", left_out=_TRAINER_LEFT),
    "only-checkpoints": Verdict("refused", "checkpoint_folders"),
    "quantised-by-name": Verdict("published", notice="a quantised copy", known_by="assumed"),
    "quantised-by-load": Verdict("published", known_by="assumed"),  # nothing in the folder shows it
    "pissa": Verdict("refused", "base_shifting_init"),
    "pickled": Verdict("published", notice="a pickle", left_out=frozenset({"adapter_model.bin"})),
    "ia3": Verdict("refused", "unsupported_peft_type"),
    "two": Verdict("refused", "missing_file"),
    "two/first": Verdict("blocked"),
    "two/second": Verdict("blocked"),
    "resized": Verdict("refused", "shape_mismatch"),
    "mlx": Verdict("refused", "missing_file"),
    "another-base": Verdict("refused", "shape_mismatch"),
    "whole-model": Verdict("refused", "missing_file"),
}
"""By the folder's place in the heap."""


@dataclass(frozen=True)
class Heap:
    """Where the folders and their base model are."""

    folder: Path
    base: Base


def make_heap(root: Path) -> Heap:
    """Make the heap and its base model below ``root``."""
    base = llama_base(root / "base", layers=1)
    heap = root / "heap"
    with _quiet():
        for name, config in _PLAIN.items():
            _lora(heap / name, base.folder, **config)
        _on_merged(root, heap, base)
        _rename_model(heap / "quantised-by-name", "someone/llama-1b-bnb-4bit")
        _on_quantised(heap / "quantised-by-load", base)
        _trainer(heap / "trainer", base)
        _trl(heap / "trl", heap / "trainer")
        shutil.copytree(heap / "trainer/checkpoint-2", heap / "only-checkpoints/checkpoint-2")
        (heap / "pickled").mkdir()
        _pickled(heap / "pickled", heap / "rslora")
        _ia3(heap / "ia3", base)
        _two(heap / "two", base)
        _resized(heap / "resized", base)
        _mlx(heap / "mlx")
        _lora(heap / "another-base", llama_base(root / "other", layers=1, hidden=32).folder, target_modules=LINEAR)
        save_model(heap / "whole-model", base.folder)
    return Heap(heap, base)


_PLAIN: Final[dict[str, dict[str, Any]]] = {
    "rslora": {"target_modules": LINEAR, "use_rslora": True},
    "on-the-base": {"target_modules": LINEAR},
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "embeddings-and-head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "save_embedding_layers": False},
    "embeddings-with-copies": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "quantised-by-name": {"target_modules": LINEAR},
    "pissa": {"target_modules": LINEAR, "init_lora_weights": "pissa"},
}


def _lora(folder: Path, base: Path, *, save_embedding_layers: bool | None = None, **config: Any) -> None:
    seed = sum(folder.name.encode())
    model = load_model(base)
    wrapped = wrap(folder, model, seed=seed, r=4, lora_alpha=8, task_type="CAUSAL_LM", **_listed(config))
    if save_embedding_layers is not None:
        wrapped.save_pretrained(folder, save_embedding_layers=save_embedding_layers)


def _listed(config: dict[str, Any]) -> dict[str, Any]:
    return config | {"target_modules": list(config["target_modules"])}


def _on_merged(root: Path, heap: Path, base: Base) -> None:
    """Trained on the base with ``rslora`` folded in: once on what a registry fetched, once on what PEFT merged."""
    with closing(LocalRegistry.open(root / "first", cache_folder=root / "cache")) as first:
        first.add_base("llama", base.folder)
        first.publish(heap / "rslora", "llama/rslora")
        fetched = Path(first.fetch("llama/rslora", root / "fetched", kind="merged").folder)
    _lora(heap / "rslora/with-receipt", fetched, target_modules=LINEAR)
    peft_merge(base.folder, [heap / "rslora"]).save_pretrained(root / "merged")
    _lora(heap / "rslora/without-receipt", root / "merged", target_modules=LINEAR)


def _rename_model(folder: Path, name: str) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))


def _on_quantised(folder: Path, base: Base) -> None:
    """As with ``load_in_4bit``: other values under the same name, and PEFT writes down the name."""
    model = load_model(base.folder)
    with torch.no_grad():
        for parameter in model.parameters():
            step = parameter.abs().max() / 7
            parameter.copy_((parameter / step).round() * step)
    wrap(folder, model, seed=3, r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=list(LINEAR))
    _rename_model(folder, "someone/llama-1b")


def _trainer(folder: Path, base: Base) -> None:
    import peft
    import transformers

    transformers.set_seed(1)
    rows = [{"input_ids": torch.arange(8) + n, "labels": torch.arange(8) + n} for n in range(4)]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(LINEAR), task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_model(base.folder).train(), config)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model()


def _trl(folder: Path, trainer: Path) -> None:
    shutil.copytree(trainer, folder)
    for place in (folder, folder / "checkpoint-1", folder / "checkpoint-2"):
        add_tokenizer(place)
        shutil.rmtree(place / "additional_chat_templates")
    (folder / "README.md").write_text("---\nlibrary_name: peft\ntags:\n- sft\n- trl\n---\n# Model card\n")


def _pickled(folder: Path, adapter: Path) -> None:
    shutil.copy(adapter / "adapter_config.json", folder)
    found = read_tensors(adapter / WEIGHTS)
    torch.save({name: torch.from_numpy(raw.values / 2) for name, raw in found.items()}, folder / "adapter_model.bin")


def _ia3(folder: Path, base: Base) -> None:
    import peft

    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(load_model(base.folder), config).save_pretrained(folder)


def _two(folder: Path, base: Base) -> None:
    import peft

    config = peft.LoraConfig(r=4, target_modules=list(LINEAR), task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_model(base.folder), config, adapter_name="first")
    model.add_adapter("second", config)
    model.save_pretrained(folder)


def _resized(folder: Path, base: Base) -> None:
    model = load_model(base.folder)
    model.resize_token_embeddings(model.config.vocab_size + 8, mean_resizing=False)
    wrap(folder, model, seed=5, r=4, target_modules=["q_proj", "embed_tokens", "lm_head"], task_type="CAUSAL_LM")


def _mlx(folder: Path) -> None:
    folder.mkdir()
    settings = {
        "adapter_path": "adapters",
        "fine_tune_type": "lora",
        "lora_parameters": {"dropout": 0.0, "rank": 8, "scale": 20.0},
        "model": "mlx-community/llama-1b",
        "num_layers": 1,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=4))
    lead = "model.layers.0.self_attn.q_proj"
    shapes = {f"{lead}.lora_a": (16, 8), f"{lead}.lora_b": (8, 16)}
    tensors = {name: RawTensor.of(np.ones(shape), "F32") for name, shape in shapes.items()}
    write_tensors(folder / "adapters.safetensors", tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Trainers warn about what is meant here."""
    with between_themselves(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
