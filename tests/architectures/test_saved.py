"""Heads and blocks that are trained whole beside pairs, judged as all types are: PEFT's own merge, and its loader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers

from registry.services.local import LocalRegistry
from tests.architectures import trial
from tests.architectures.trial import Verdict, try_type

Links = list[dict[str, Any]]

PAIRS = {"r": 2, "lora_alpha": 4}
BLOCK = "encoder.stages.0.layers.0"


def judged(
    kind: str, cls: str, links: Links, folder: Path, monkeypatch: pytest.MonkeyPatch, unread: str = ""
) -> Verdict:
    """What becomes of these links on a tiny model of the class; ``unread``: a weight that is not compared."""
    load = trial._load

    def load_without(*given: Any) -> Any:
        model, info = load(*given)
        return model, {**info, "missing_keys": sorted({*info["missing_keys"], unread} - {""})}

    monkeypatch.setattr(trial, "_load", load_without)
    monkeypatch.setattr(trial, "VARIANTS", {"own": lambda _: [{**PAIRS, **one} for one in links]})
    monkeypatch.setattr(trial, "tied_by_peft", lambda _: True)
    monkeypatch.setattr(trial, "model_classes", lambda _: [getattr(transformers, cls)])
    if unread:  # PEFT's folder has it as it was in the base, so that no revision is equal to that folder
        monkeypatch.setattr(trial, "_saved_and_loaded", lambda *_: None)
    template, work = folder / "template", folder / "work"
    LocalRegistry.open(template, create=True).close()
    work.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = try_type(kind, ["own"], work, template)
    return found


@pytest.mark.parametrize("head_first", [False, True])
@pytest.mark.parametrize(
    ("kind", "cls", "head", "dense"),
    [
        ("bert", "BertForMaskedLM", "cls.predictions.decoder", "cls.predictions.transform.dense"),
        ("bert", "BertForMaskedLM", "cls", "bert.encoder.layer.0.attention.self.query"),
        ("roberta", "RobertaForMaskedLM", "lm_head.decoder", "lm_head.dense"),
    ],
)
def test_a_tied_head_beside_a_pair(
    kind: str, cls: str, head: str, dense: str, head_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head's bias is tied to one outside it: what has that one is not saved for it, nor is the pair in it lost."""
    links: Links = [{"target_modules": [dense], "modules_to_save": [head]}, {"target_modules": [dense]}]
    # where PEFT parts the two biases, the one that no forward reads stays behind
    unread = f"{head.rpartition('.')[0]}.bias" if head.endswith(".decoder") else ""
    found = judged(kind, cls, links if head_first else links[::-1], tmp_path, monkeypatch, unread)
    assert (found.verdict, found.composed) == ("exact", "exact"), found


@pytest.mark.parametrize(
    ("kind", "cls"), [("roberta", "RobertaForSequenceClassification"), ("bert", "BertForSequenceClassification")]
)
def test_a_head_that_peft_saves_for_the_task(
    kind: str, cls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: Links = [
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
        {"target_modules": ["value"], "task_type": "SEQ_CLS"},
    ]
    found = judged(kind, cls, links, tmp_path, monkeypatch)
    assert (found.verdict, found.composed) == ("exact", "exact"), found


def test_a_block_that_is_saved_whole_has_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the path does is in it: the pair of zeros that PEFT wants is of a module elsewhere."""
    links: Links = [{"target_modules": "dummy-target-modules", "modules_to_save": [BLOCK]}] * 2
    found = judged("convnext", "ConvNextModel", links, tmp_path, monkeypatch)
    assert (found.verdict, found.composed) == ("exact", "exact"), found


@pytest.mark.slow
def test_biases_of_some_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration speaks of all modules with a pair, or of the whole model: the rest is as the base has it."""
    for number, bias in enumerate(["lora_only", "all"]):
        links: Links = [{"target_modules": ["query"], "bias": bias}, {"target_modules": ["value"]}]
        folder = tmp_path / str(number)
        folder.mkdir()
        with monkeypatch.context() as patch:
            found = judged("bert", "BertForMaskedLM", links, folder, patch)
        assert (found.verdict, found.composed) == ("exact", "exact"), found
