"""Tiny models of transformers of several kinds, with adapters that PEFT made for them, in a registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from registry.pool import AdapterPool
from tests.kit.peers import wrap
from tests.kit.shelf import Shelf

Inputs = Mapping[str, torch.Tensor]

_SMALL: Final = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


@dataclass(frozen=True)
class Kind:
    """A type of model, and what adapters of it target."""

    auto: str
    model_type: str
    config: Mapping[str, Any]
    adapters: Sequence[Mapping[str, Any]]
    task: str | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "bert": Kind(
        "AutoModelForSequenceClassification",
        "bert",
        {**_SMALL, "vocab_size": 40, "num_labels": 3},
        (
            {"target_modules": ["query", "value"]},
            {"target_modules": ["key", "output.dense"], "use_dora": True, "bias": "lora_only"},
            {"target_modules": ["word_embeddings", "position_embeddings", "query"]},
        ),
        "SEQ_CLS",
    ),
    "t5": Kind(
        "AutoModelForSeq2SeqLM",
        "t5",
        {
            "d_model": 16, "d_ff": 24, "d_kv": 4, "num_layers": 2, "num_heads": 4, "vocab_size": 40, "pad_token_id": 0,
            "decoder_start_token_id": 0, "eos_token_id": 1,
        },
        (
            {"target_modules": ["q", "v"]},
            {"target_modules": ["wi", "wo", "k"], "use_dora": True},
            {"target_modules": ["o", "wo"]},
        ),
    ),
    "vit": Kind(
        "AutoModelForImageClassification",
        "vit",
        {**_SMALL, "image_size": 16, "patch_size": 8, "num_labels": 3},
        (
            {"target_modules": ["projection", "q_proj"]},
            {"target_modules": ["projection", "v_proj"], "use_dora": True, "modules_to_save": ["classifier"]},
            {"target_modules": ["fc1"], "bias": "all"},
        ),
    ),
    "qwen2_moe": Kind(
        "AutoModelForCausalLM",
        "qwen2_moe",
        {
            **_SMALL, "num_key_value_heads": 2, "vocab_size": 40, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12, "max_position_embeddings": 32,
            "decoder_sparse_step": 1,
        },
        (
            {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
            {"target_modules": ["shared_expert.up_proj", "o_proj"], "use_dora": True},
            {"target_modules": ["v_proj"], "target_parameters": ["mlp.experts.down_proj"]},
        ),
    ),
}  # fmt: skip


class Standing:
    """A model, its pool, and paths on its base."""

    def __init__(self, shelf: Shelf, name: str, base: str | None = None) -> None:
        self.kind = KINDS[name]
        self.shelf, self.name = shelf, base or name.replace("_", "-")
        self.folder = shelf.folder()
        torch.manual_seed(5)
        self._made().save_pretrained(self.folder)
        shelf.registry.add_base(self.name, self.folder)
        self.references = [self.publish(number) for number in range(len(self.kind.adapters))]
        self.model = self.load()
        self.pool = AdapterPool(self.model, shelf.registry, base=self.name)

    def _made(self) -> Any:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        config = CONFIG_MAPPING[self.kind.model_type](**self.kind.config)
        auto = "AutoModel" if self.kind.task == "SEQ_CLS" else self.kind.auto
        model = getattr(transformers, auto).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        """The base model, running."""
        import transformers

        torch.manual_seed(6)
        options = {"num_labels": 3} if self.kind.task else {}
        return getattr(transformers, self.kind.auto).from_pretrained(self.folder, dtype=dtype, **options).eval()

    def publish(self, number: int) -> str:
        """An adapter that PEFT makes."""
        adapter = self.shelf.folder()
        config = dict(self.kind.adapters[number])
        wrap(adapter, self.load(), seed=number, b_scale=0.3, task_type=self.kind.task, r=2 + number, **config)
        return self.shelf.path(self.name, [adapter])

    def inputs(self, rows: int, length: int = 5) -> dict[str, torch.Tensor]:
        """A batch, padded at its right where it is text."""
        generator = torch.Generator().manual_seed(rows)
        if self.kind.model_type == "vit":
            return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}
        ids = torch.randint(2, 40, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, length - 2 :] = 0
        found = {"input_ids": ids, "attention_mask": mask}
        if self.kind.model_type == "t5":
            found["decoder_input_ids"] = torch.randint(2, 40, (rows, 3), generator=generator)
        return found


def away(found: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference, as a part of the largest output."""
    found, right = found.detach().double(), right.detach().double()
    return float((found - right).abs().max() / right.abs().max())
