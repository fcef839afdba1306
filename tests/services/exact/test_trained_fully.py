"""A full fine-tune by transformers' Trainer, and an adapter that PEFT trained on it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.kit import llama_base, read_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")]


def test_what_a_trainer_left_comes_back(tmp_path: Path) -> None:
    """In bf16; with two added tokens, which it generates from; the checkpoint's own files are left out or kept."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = llama_base(tmp_path / "base", dtype="BF16")
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16)
    model.resize_token_embeddings(42)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 42, (8, 12), generator=generator)
    rows = [{"input_ids": one, "labels": one} for one in ids]
    how = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=4,
        report_to=[],
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=how, train_dataset=rows).train()
    run = tmp_path / "run" / "checkpoint-4"
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as registry:
        registry.add_base("net", base.folder)
        registry.publish(run, "net/sft", full=True)
        assert "optimizer.pt" not in {file.path for file in registry.show("net/sft").files}
        registry.fetch("net/sft", tmp_path / "sft", kind="merged")
        assert read_model(tmp_path / "sft") == read_model(run)
        tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32)
        assert tuned.config.vocab_size == 42
        assert tuned.generate(torch.tensor([[40, 41]]), max_new_tokens=3, do_sample=False).shape[1] > 2
        adapted = get_peft_model(tuned, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
        with torch.no_grad():
            for name, weights in adapted.named_parameters():
                if "lora_" in name:
                    weights.copy_(0.1 * torch.randn(weights.shape, generator=generator))
        adapted.save_pretrained(tmp_path / "child")
        registry.publish(tmp_path / "child", "net/sft/child")
        registry.fetch("net/sft/child", tmp_path / "merged", kind="merged", dtype="fp32")
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32)
        peer = PeftModel.from_pretrained(fresh, str(tmp_path / "child"))
        assert torch.allclose(found(ids).logits, peer(ids).logits, rtol=1e-4, atol=1e-5)
