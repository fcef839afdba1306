"""A folder of drawn LoRA files of all formats through an import: each is merged exactly, or refused as expected."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.schemas.publishing import ImportEntry
from registry.services.local import LocalRegistry
from tests.images import test_lora_files as files
from tests.images.denoisers import weights_of
from tests.images.loras import lora_file
from tests.images.test_lora_files import REFUSED, Denoiser, Written, check

WRITERS: dict[str, tuple[Callable[[Written], None], ...]] = {
    "sd": (files.kohya, files.diffusers_new, files.diffusers_old, files.comfy),
    "flux": (files.kohya, files.comfy, files.ai_toolkit, files.xlabs, files.one_trainer, files.one_trainer_legacy),
}
METADATA: tuple[dict[str, str], ...] = (
    {},
    {"ss_base_model_version": "sd_v1", "ss_output_name": "<b>x</b>", "ss_steps": "100"},
    {"modelspec.architecture": "flux-1-dev/lora", "modelspec.trigger_phrase": "a, b"},
    {"ss_tag_frequency": "[[[", "training_info": "1", "ss_sd_model_name": "/home/x/y.safetensors"},
)


class Drawn(Written):
    """A file with some of the modules that a trainer would write."""

    def __init__(self, model: torch.nn.Module, drawn: random.Random) -> None:
        super().__init__(model)
        self._some = drawn
        self._share = drawn.choice((0.02, 0.1, 0.5))

    def add(self, *given: Any, **more: Any) -> None:
        if not self.tensors or self._some.random() < self._share:
            super().add(*given, **more)


@pytest.fixture
def two_bases(denoiser: Denoiser, tmp_path: Path) -> Iterator[LocalRegistry]:
    with closing(LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")) as made:
        for family in WRITERS:
            made.add_base(family, denoiser(family)[1])
        yield made


@pytest.mark.parametrize(
    "count", [20, pytest.param(60, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.long)]
)
def test_none_of_a_folder_is_wrong(count: int, denoiser: Denoiser, two_bases: LocalRegistry, tmp_path: Path) -> None:
    drawn, heap = random.Random(count), tmp_path / "heap"
    good: dict[str, tuple[str, Written]] = {}
    bad: dict[str, str] = {}
    for number in range(count):
        place = heap / f"folder {number % 7}" / f"File {number}.safetensors"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number % 4 == 3:
            write, bad[str(place.relative_to(heap))] = REFUSED[list(REFUSED)[number // 4 % len(REFUSED)]]
            written = Written(denoiser("sd")[0])
            write(written)
        else:
            family = drawn.choice(list(WRITERS))
            written = Drawn(denoiser(family)[0], drawn)
            drawn.choice(WRITERS[family])(written)
            good[str(place.relative_to(heap))] = family, written
        written.save(place, drawn.choice(METADATA))
    plan = two_bases.plan_import(str(heap))
    entries: dict[str, ImportEntry] = {one.folder.removeprefix("./"): one for one in plan.document.entries}
    assert entries.keys() == good.keys() | bad.keys()
    assert {place: entries[place].code for place in bad} == bad
    assert {place: entries[place].parent for place in good} == {place: family for place, (family, _) in good.items()}
    outcomes = two_bases.apply_import(plan.document)
    assert {one.state for one in outcomes} == {"published"}
    for number, one in enumerate(outcomes):
        written = good[one.folder.removeprefix("./")][1]
        assert one.published is not None
        check(two_bases, one.published.revision.reference, written, tmp_path / f"merged {number}")


def test_a_file_that_fits_two_base_models_is_asked_about(
    denoiser: Denoiser, local: LocalRegistry, tmp_path: Path
) -> None:
    model, folder = denoiser("sd")
    local.add_base("sd", folder)
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / files.WEIGHTS)
    save_file({**weights, "conv_in.weight": weights["conv_in.weight"] + 1}, other / files.WEIGHTS, {"format": "pt"})
    local.add_base("sd-tuned", other)
    heap = tmp_path / "heap"
    for number, name in enumerate(("my-000010.safetensors", "my.safetensors")):
        lora_file(heap / name, weights_of(model), ("conv_in",), seed=number, metadata=METADATA[1])
    plan = local.plan_import(str(heap)).document
    assert [(one.folder, one.action) for one in plan.entries] == [
        ("./my.safetensors", "undecided"),
        ("./my-000010.safetensors", "skip"),
    ]
    (question,) = plan.questions
    assert (question.repo_id, question.candidates) == ("sd_v1", ("sd", "sd-tuned"))
    answered = question.model_copy(update={"base": "sd-tuned"})
    (outcome,) = local.apply_import(plan.model_copy(update={"questions": (answered,)}))
    assert outcome.published is not None
    revision = outcome.published.revision
    assert (revision.reference, revision.parent_known_by) == ("sd-tuned/my@1", "given")
    assert (revision.annotations["title"], revision.annotations["step"]) == ("x", "100")
    assert not outcome.notices
