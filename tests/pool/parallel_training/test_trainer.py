"""`transformers.Trainer` with a collator and a callback trains siblings as a plain loop does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator

from registry.errors import UsageError
from tests.kit.shelf import Shelf
from tests.pool.parallel_training.nursery import Nursery, texts, values_of


@pytest.mark.slow
def test_the_trainer_does_what_a_loop_does(shelf: Shelf, tmp_path: Path) -> None:
    nursery = Nursery(shelf, "llama")
    first, second = nursery.path("first"), nursery.path("second")
    config = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
    given = {first: config, second: {**config, "use_dora": True}}
    batch = texts(8, seed=1)
    names = [first, second, second, first, second, first, first, second]
    examples = [{**{name: one[row] for name, one in batch.items()}, "sibling": names[row]} for row in range(8)]
    options: dict[str, Any] = {"learning_rate": {first: 1e-2, second: 2e-2}, "accumulate": 2}
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "runs"),
        per_device_train_batch_size=2,
        max_steps=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        data_seed=0,
        train_sampling_strategy="sequential",
    )
    with nursery.pool() as pool, pool.siblings(given, nursery.parent, **options) as siblings:
        trainer = Trainer(
            model=pool._model,
            args=arguments,
            train_dataset=examples,
            data_collator=siblings.collator(default_data_collator),
            compute_loss_func=siblings.loss,
            callbacks=[siblings.callback()],
        )
        trainer.train()
        by_trainer = {path: values_of(siblings, path) for path in given}
        with pytest.raises(UsageError, match="none of the siblings"):
            siblings.collator(default_data_collator)([{"input_ids": [1]}])
        with torch.no_grad():  # an evaluation updates nothing
            assert trainer.evaluate(examples)["eval_loss"] > 0
        last = trainer.state.log_history[-1]
        assert last["eval_loss"] > 0 < min(last[f"eval_loss/{path}"] for path in given)
        assert siblings.update() == {}
    with nursery.pool() as pool, pool.siblings(given, nursery.parent, **options) as siblings:
        pool._model.train()
        rates = {path: one.param_groups[0]["lr"] for path, one in siblings.optimizers.items()}
        for number in range(4):
            for path, optimizer in siblings.optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[path] * (1 - number // 2 / 2)
            rows = slice(2 * number, 2 * number + 2)
            siblings.step({name: one[rows] for name, one in batch.items()}, names[rows])
        for path in given:
            for name, one in values_of(siblings, path).items():
                torch.testing.assert_close(by_trainer[path][name], one)
