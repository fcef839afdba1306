"""What docs/pool.md shows of a pool runs as it stands, and does what it says; its recipes are in `test_recipes`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import registry
from registry.folders.receipts import read_receipt
from registry.pool import AdapterPool
from tests.pool.page import blocks, encoder_tree, llama_tree, run


def test_merging_and_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(llama_tree(tmp_path)) as team:
        monkeypatch.setattr(registry, "connect", lambda: team)
        names: dict[str, Any] = {}
        (merging,) = blocks("# Paths in a running model")
        run(merging, names)
        (saving,) = blocks("## Saving, and training on it")
        with AdapterPool(names["model"], team) as pool:
            run(saving, names | {"pool": pool})
        assert read_receipt(tmp_path / "support-merged").reference == "llama/support@2"


def test_beside_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(llama_tree(tmp_path)) as team:
        monkeypatch.setattr(registry, "connect", lambda: team)
        names: dict[str, Any] = {"tokens": lambda _: torch.tensor([[3, 1, 4, 1]])}
        (merging,) = blocks("# Paths in a running model")
        run(merging, names)
        (beside,) = blocks("## Beside the base")
        run(beside, names)
        with AdapterPool(names["model"], team) as pool, pool.merged("llama/support/french@1"):
            merged = names["model"](names["ids"]).logits
        torch.testing.assert_close(names["french"], merged, rtol=0.05, atol=0.05)  # in bf16
        assert names["mixed"].shape[0] == 3


@pytest.mark.slow
def test_siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(llama_tree(tmp_path)) as team:
        monkeypatch.setattr(registry, "connect", lambda: team)
        names = to_train_on(tmp_path)
        (merging,) = blocks("# Paths in a running model")
        run(merging, names)
        for block in blocks("## Several adapters trained at once"):
            run(block, names)
        assert names["references"] == ("llama/support/code@2", "llama/support/mail@1")
        found = [team.show(reference).revision for reference in ("llama/support/code", "llama/support/mail")]
        assert [one and (one.number, one.parent) for one in found] == [(3, "llama/support@2"), (2, "llama/support@2")]
        assert team.publish(tmp_path / "code", "llama/support/code").revision.parent == "llama/support@2"


def to_train_on(folder: Path) -> dict[str, Any]:
    ids = torch.randint(3, 30, (4, 6), generator=torch.Generator().manual_seed(0))
    rows = ["llama/support/code", "llama/support/mail"] * 2
    arguments = TrainingArguments(
        output_dir=str(folder / "runs"),
        max_steps=2,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    examples = [{"input_ids": one, "labels": one, "sibling": row} for one, row in zip(ids, rows, strict=True)]
    return {"batches": [({"input_ids": ids, "labels": ids}, rows)], "examples": examples, "arguments": arguments}


@pytest.mark.long  # tests/pool/compiled has shorter ones
def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(llama_tree(tmp_path)) as team:
        monkeypatch.setattr(registry, "connect", lambda: team)
        names: dict[str, Any] = {"ids": torch.tensor([[3, 1, 4, 1]])}
        (merging,) = blocks("# Paths in a running model")
        run(merging, names)
        (compiled,) = blocks("## Compiled")
        with torch.no_grad():
            run(compiled, names)
            with AdapterPool(names["model"], team) as pool, pool.merged("llama/support/french@1"):
                merged = names["model"](names["ids"]).logits
        torch.testing.assert_close(names["french"], merged, rtol=0.05, atol=0.05)  # in bf16
        assert not torch.equal(names["french"], names["code"])


def test_routing(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with closing(encoder_tree(tmp_path, ["minilm/orders", "minilm/bookings", "minilm/topics"])) as team:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "MiniLM")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "MiniLM", num_labels=3).eval()
        by_function, by_centroid, by_classifier = blocks("## Routing")
        with AdapterPool(model, team) as pool:
            names: dict[str, Any] = {"pool": pool, "team": team, "model": model, "tokenizer": tokenizer, "torch": torch}
            run(by_function, names)
            assert names["references"] == ("minilm/orders@1", None)
            with pool.merged("minilm/orders@1"), torch.no_grad():
                alone = model(**tokenizer(names["texts"], return_tensors="pt", padding=True)).logits
            torch.testing.assert_close(names["logits"][0], alone[0], rtol=1e-5, atol=1e-6)
            assert not torch.allclose(names["logits"][1], alone[1])
            run(by_centroid, names)
            assert names["references"] == ["minilm/orders@1", "minilm/bookings@1"]
            run(by_classifier, names)
            with pool.merged("minilm/topics"), torch.no_grad():
                batch = tokenizer(names["texts"], return_tensors="pt", padding=True)
                labels = model(**batch).logits.argmax(dim=1).tolist()
            assert names["references"] == [names["stands_for"][label] for label in labels]
