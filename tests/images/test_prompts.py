"""What a picture was made with: A1111's parameters and ComfyUI's graph, and nothing that is said twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.files.source import FileSource
from registry.images.pictures import texts_of, worded_part
from registry.images.prompts import Made, made_by
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.images.loras import lora_file
from tests.images.test_lora_files import Denoiser
from tests.images.test_pictures import SAID, exif
from tests.kit.pages import Visitor
from tests.kit.png import chunk, png
from tests.kit.serving import served

SEEDED = SAID.replace("Sampler: Euler", "Sampler: Euler, Seed: 42")


def graph(*seeds: int, name: str = "seed") -> str:
    nodes: dict[str, Any] = {
        str(10 + at): {"class_type": "KSampler", "inputs": {name: seed, "positive": ["2", 0], "negative": ["4", 0]}}
        for at, seed in enumerate(seeds)
    }
    nodes["2"] = {"class_type": "FluxGuidance", "inputs": {"conditioning": ["3", 0], "guidance": 3.5}}
    nodes["3"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a red hat", "clip": ["1", 1]}}
    nodes["4"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}}
    return json.dumps(nodes)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        (SEEDED, Made("a portrait,", "42")),
        ("a cat\nSteps: 20, Seed: 7", Made("a cat", "7")),
        ("Negative prompt: x\nSteps: 20, Seed: 7", Made("", "7")),
        ("a cat, Seed: 7", Made()),
        ("a cat\nSteps: 20, Variation seed: 9, Size: 1x1", Made("a cat", "")),
        (graph(42), Made("a red hat", "42")),
        (graph(42, name="noise_seed"), Made("a red hat", "42")),
        (graph(42, 42), Made("a red hat", "42")),
        (graph(42, 43), Made()),
        ('{"1": {"inputs": {"seed": 1, "positive": ["1", 0]}}}', Made("", "1")),
        ("{" * 5000, Made()),
    ],
)
def test_prompt_and_seed_are_what_the_programs_write(text: str, made: Made) -> None:
    assert made_by([text]) == made


def test_texts_of_a_large_picture_are_found_without_its_points(tmp_path: Path) -> None:
    large, text = b"\0" * (1 << 20), b"EXIF" + len(exif(SEEDED)).to_bytes(4, "little") + exif(SEEDED)
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes(10) + b"VP8 " + len(large).to_bytes(4, "little") + large
    (tmp_path / "a").write_bytes(b"RIFF" + len(body + text).to_bytes(4, "little") + body + text)
    with FileSource(tmp_path / "a") as source:
        assert len(part := worded_part(source)) < 1 << 12
    assert made_by(texts_of(part)) == Made("a portrait,", "42")


def test_a_page_has_the_pictures_of_a_lora_and_compares_them(
    denoiser: Denoiser, shelf: LocalRegistry, tmp_path: Path
) -> None:
    weights = weights_of(denoiser("sd")[0])
    for seed, order in ((1, ("x", "y")), (2, ("y", "x"))):
        file = lora_file(tmp_path / str(seed) / "pic.safetensors", weights, ("conv_in",), seed=seed)
        file.with_suffix(".json").write_text('{"activation text": "mychar, red hat", "preferred weight": 0.7}')
        for at, prompt in enumerate(order, 1):
            said = f"parameters\0{prompt}\nSteps: 20, Seed: 5".encode()
            file.with_name(f"pic.{at}.png").write_bytes(png(chunk(b"tEXt", said)))
        shelf.publish(file, "sd/pictured")
    with served(shelf) as address, Visitor(address) as visitor:
        page = visitor.get("/tree/sd/pictured@2").text
        for line in (
            "mychar, red hat",
            "registry fetch sd/pictured@2 --for comfyui -o models/loras/",
            "&lt;lora:sd-pictured:0.7&gt; mychar, red hat",
            "registry fetch sd/pictured@2:0.7 --as merged -o ./sd-pictured",
            'alt="Preview 1 of sd/pictured@2: y, seed 5"',
        ):
            assert line in page, line
        assert page.index("Trigger words</h2>") < page.index("Previews</h2>") < page.index("What it changed")
        both = visitor.get("/compare?a=sd/pictured@1&b=sd/pictured@2").text
        assert both.count("Same prompt and seed") == 2
        assert both.index("pictured@1: x, seed 5") < both.index("pictured@2: x, seed 5") < both.index("pictured@1: y")
