"""Denoisers of image models, tiny, as diffusers builds and saves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.services.local import LocalRegistry
from tests.images.denoisers import made
from tests.kit.registries import local

__all__ = ["local"]


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """A model of a family in bf16 and the folder that diffusers saved, made once."""
    kept: dict[str, tuple[Any, Path]] = {}

    def give(family: str) -> tuple[Any, Path]:
        if family not in kept:
            model = made(family).to(torch.bfloat16)
            folder = tmp_path_factory.mktemp(family) / family
            model.save_pretrained(folder)
            kept[family] = model, folder
        return kept[family]

    return give


@pytest.fixture(scope="session")
def shelf(
    denoiser: Callable[[str], tuple[Any, Path]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalRegistry]:
    """A registry with the base model sd, which tests share: each has names of its own."""
    with closing(LocalRegistry.open(tmp_path_factory.mktemp("shelf") / "registry")) as opened:
        opened.add_base("sd", denoiser("sd")[1])
        yield opened
