"""A dozen of the most different architectures in every variant; `tests.architectures.run` tries all."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from registry.services.local import LocalRegistry
from tests.architectures import trial
from tests.architectures.links import VARIANTS
from tests.architectures.trial import Verdict, try_type

DOZEN: dict[str, dict[str, str]] = {
    "llama": {},
    "gpt2": {},  # Conv1D
    "distilbert": {},  # a head with a bias of its own beside a tied weight
    "mixtral": {},  # experts that the files keep one by one
    "gpt_oss": {},  # experts that are stored transposed
    "mamba": {},  # modules that PEFT refuses to adapt
    "whisper": {},  # encoder and decoder of speech, convolutions, a tied head
    "t5": {"embeddings": "tied_partial", "dora": "tied_partial"},  # three sides of one weight
    "glmga": {},  # a class that is shared with another type; two towers
    "pp_chart2table": {},  # a type whose class only the configuration names
    "exaone": {},  # files with the names of another implementation
    "sarvam_mla": {"dora": "ValueError"},  # latent attention, shared experts; PEFT has a half of gate and up refused
    "gemma3": {},  # nn.MultiheadAttention in one tower
    "convbert": {},  # a bias of two dimensions
    "clip": {},  # two towers, no head
    "git": {},  # a head whose name is the end of other modules' names
}
"""Type -> the variants that are refused, by us or by PEFT, and the code."""


FORMS = [
    ("clip", "containers"),  # a module that is saved whole has others below it
    ("levit", "containers"),  # and counts batches
    ("convbert", "values"),  # a bias of two dimensions
    ("wav2vec2", "containers"),  # a weight that is computed from two parameters
    ("vit", "parameters"),  # a bias inside a module with parameters that are adapted by name
    ("funnel", "parameters"),  # where only the version of PEFT tells in from out
    ("gpt_oss", "parameters"),  # a bias beside two of them
]


def tried(model_type: str, folder: Path, variants: list[str] | None = None) -> list[Verdict]:
    """What the harness finds, with the talk of PEFT and transformers left out."""
    template, work = folder / "template", folder / "work"
    LocalRegistry.open(template, create=True).close()
    work.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(try_type(model_type, variants or list(VARIANTS), work, template))


@pytest.mark.long
@pytest.mark.parametrize("model_type", sorted(DOZEN))
def test_a_path_is_what_peft_makes_of_it(model_type: str, tmp_path: Path) -> None:
    refused = DOZEN[model_type]
    found = tried(model_type, tmp_path)
    assert any(one.verdict == "exact" and one.composed == "exact" for one in found)
    for one in found:
        if one.variant in refused:
            assert one.verdict in ("refused", "peft"), one
            assert one.code == refused[one.variant], one
        else:
            assert one.verdict in ("exact", "nothing"), one
            assert one.composed in ("exact", ""), one


@pytest.mark.slow_on("levit", "clip")
@pytest.mark.parametrize(("model_type", "variant"), FORMS)
def test_peft_loads_every_form_of_a_composed_adapter(model_type: str, variant: str, tmp_path: Path) -> None:
    (found,) = tried(model_type, tmp_path, [variant])
    assert (found.verdict, found.composed) == ("exact", "exact"), found


def test_weights_that_are_not_those_of_peft_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: with a scaling that is a thousandth off, nothing is exact."""
    from registry.tensors.checkpoint.adapter import LoraAdapterConfig

    right = LoraAdapterConfig.scaling
    monkeypatch.setattr(LoraAdapterConfig, "scaling", lambda *given: right(*given) * 1.001)
    monkeypatch.setattr(trial, "_saved_and_loaded", lambda *_: None)  # whose weights publishing compares
    (found,) = tried("llama", tmp_path, ["linear"])
    assert (found.verdict, found.code) == ("wrong", "merged")
    assert "off (deltas up to" in found.text
