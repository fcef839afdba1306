"""What TRL's SFTTrainer leaves comes in, with the figures of its last evaluation."""

from __future__ import annotations

import importlib
import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.kit import llama_base
from tests.kit.peers import load_model, peft_merge
from tests.kit.tokenizer_files import add_working_tokenizer
from tests.services.importing.test_import_plan import planned
from tests.services.publishing.parent_house import opened


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' about each other
def test_runs_of_the_sft_trainer_come_in(tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: `make test-long ONLY=recipes` has it")
    base = llama_base(tmp_path / "heap/net", layers=1)
    add_working_tokenizer(base.folder)
    first = _trained(tmp_path / "heap/runs/support", base.folder)
    merged = tmp_path / "heap/merged"
    peft_merge(base.folder, [first]).save_pretrained(merged)
    add_working_tokenizer(merged)
    _trained(tmp_path / "heap/runs/french", merged)
    with closing(opened(tmp_path)) as team:
        plan = team.plan_import(tmp_path / "heap")
        assert planned(plan.entries) == {
            "./net": ("add", "net", None),
            "./runs/support": ("publish", "support", "./net"),
            "./runs/french": ("publish", "french", "./runs/support"),
        }
        french = next(one for one in plan.entries if one.folder == "./runs/french")
        assert french.annotations["trainer"] == "TRL"
        assert french.annotations["step"] == "2"
        state = json.loads((tmp_path / "heap/runs/french/checkpoint-2/trainer_state.json").read_text())
        losses = [one["eval_loss"] for one in state["log_history"] if "eval_loss" in one]
        assert french.metrics["eval_loss"] == losses[-1]
        assert {one.state for one in plan.apply()} == {"published"}
        assert team.search(path="net/support/french").revisions[0].parent == "net/support@1"


def _trained(folder: Path, base: Path) -> Path:
    import peft
    import transformers

    dataset, trl = importlib.import_module("datasets").Dataset, importlib.import_module("trl")
    transformers.set_seed(1)
    rows = dataset.from_list([{"text": text} for text in ("where is my order", "cancel booking")] * 4)
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        max_steps=2,
        save_steps=1,
        eval_steps=1,
        eval_strategy="steps",
        per_device_train_batch_size=2,
        learning_rate=0.05,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        max_length=16,
    )
    trainer = trl.SFTTrainer(
        model=load_model(base).train(),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model()
    return folder
