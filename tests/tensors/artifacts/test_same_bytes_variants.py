"""The same bytes however they are read, for every form that a path can take: DoRA by row and by column, experts,
convolutions, attention, absolute values, untied weights."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from registry.schemas import ArtifactKind
from registry.tensors.arithmetic import kernel
from tests.kit.recipes import Recipe, write_recipes
from tests.kit.shelf import Shelf, core_artifact
from tests.kit.variants import MAKERS

PATHS = {
    "dora by row": (
        "llama",
        [Recipe(("q_proj", "up_proj"), dora=True), Recipe(("q_proj",)), Recipe(("q_proj", "k_proj"), dora=True)],
    ),
    "dora by column": (
        "gpt2",
        [Recipe(("c_attn", "wte"), dora=True), Recipe(("c_attn",)), Recipe(("c_attn", "wte"), dora=True)],
    ),
    "experts": (
        "mixtral",
        [
            Recipe(parameters=("mlp.experts.gate_up_proj",)),
            Recipe(parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj")),
        ],
    ),
    "convolutions": ("conv", [Recipe(("c1", "c2", "c3"), dora=True), Recipe(("c1", "c2"))]),
    "attention": ("attention", [Recipe(("attn",)), Recipe(("attn",), r=3)]),
    "values": (
        "llama",
        [
            Recipe(("q_proj",), replaced=("lm_head",)),
            Recipe(("lm_head",), copies=True),
            Recipe(("v_proj",), tokens={"embed_tokens": (1, 5)}),
        ],
    ),
    "untied": ("tied llama", [Recipe(("lm_head", "q_proj")), Recipe(("embed_tokens",))]),
}


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that small matrices have several with a short last one."""
    monkeypatch.setattr(kernel, "MAX_ROWS", 16)


@pytest.mark.long_but("merged", "values", "experts", "dora by column")
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", ["lora", "merged"])
def test_pieces_threads_and_order(shelf: Shelf, name: str, kind: ArtifactKind, tmp_path: Path) -> None:
    maker, recipes = PATHS[name]
    label = "bytes-" + name.replace(" ", "-")
    base = shelf.base(label, MAKERS[maker], dtype="F32")
    folders = write_recipes(tmp_path, base, [replace(one, seed=at) for at, one in enumerate(recipes)])
    reference = shelf.path(label, folders)
    out = shelf.folder()
    shelf.registry.fetch(reference, out, kind=kind)
    draw = random.Random(name)
    for lanes in (1, 3):
        with core_artifact(shelf.registry, reference, kind=kind) as artifact:
            for path, file in artifact.files.items():
                whole = (out / path).read_bytes()
                # in no order: what needs the whole slot is also asked for by its last rows first
                for start in [draw.randrange(file.size) for _ in range(30)]:
                    stop = min(file.size, start + draw.choice((1, 7, 300, 5000)))
                    assert b"".join(file.chunks(start, stop, lanes=lanes)) == whole[start:stop], (path, start)
