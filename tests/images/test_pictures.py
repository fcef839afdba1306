"""Hashes in pictures name the revisions of the files that made them, and no text in one is believed or unbounded."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from registry.errors import UsageError
from registry.folders.named_models import models_in_picture
from registry.images.hashes import NamedModel, named_models
from registry.images.pictures import texts_of
from registry.operations import table
from registry.schemas.requests import HashesRequest
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.images.loras import lora_file
from tests.images.test_lora_files import Denoiser
from tests.kit.png import chunk, png

SAID = (
    "a portrait, <lora:mychar:0.8>\nNegative prompt: x\nSteps: 20, Sampler: Euler, Model hash: 31e35c80fc, Model: "
    'sdxl base, Lora hashes: "mychar: 1A2B3C4D5E6F, old: 12345678", Version: 1\n'
)
NAMED = (
    NamedModel("lora", "mychar", "1a2b3c4d5e6f"),
    NamedModel("lora", "old", "12345678"),
    NamedModel("model", "sdxl base", "31e35c80fc"),
)


def exif(text: str, order: str = ">") -> bytes:
    """EXIF with a comment as A1111 writes it, in the field below the first directory."""
    coding = "utf-16-be" if order == ">" else "utf-16-le"
    comment = b"UNICODE\0" + text.encode(coding)
    first = struct.pack(f"{order}HHHIII", 1, 0x8769, 4, 1, 26, 0)
    below = struct.pack(f"{order}HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    return (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8) + first + below + comment


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    parts = (bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body for kind, body in segments)
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xda\0\2"


def webp(kind: bytes, body: bytes) -> bytes:
    inner = b"WEBP" + b"VP8 " + struct.pack("<I", 1) + b"\0\0" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


RAW = SAID.encode()
PICTURES = {
    "tEXt": png(chunk(b"tEXt", b"parameters\0" + RAW)),
    "zTXt": png(chunk(b"zTXt", b"parameters\0\0" + zlib.compress(RAW))),
    "iTXt": png(chunk(b"iTXt", b"parameters\0\0\0en\0\0" + RAW)),
    "compressed iTXt": png(chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(RAW))),
    "eXIf": png(chunk(b"eXIf", exif(SAID))),
    "JPEG": jpeg((0xE0, b"JFIF\0"), (0xE1, b"Exif\0\0" + exif(SAID))),
    "JPEG, the other order": jpeg((0xE1, b"Exif\0\0" + exif(SAID, "<"))),
    "WebP": webp(b"EXIF", exif(SAID)),
    "WebP with a lead": webp(b"EXIF", b"Exif\0\0" + exif(SAID)),
}


@pytest.mark.parametrize("kind", list(PICTURES))
def test_hashes_are_read_where_programs_write_them(kind: str) -> None:
    assert named_models(texts_of(PICTURES[kind])) == NAMED


def test_civitais_hashes_and_a_graph_that_names_files_alone() -> None:
    hashes = json.dumps({"model": "31e35c80fc", "lora:mychar": "1a2b3c4d5e", "embed:neg": "aabbccddee", "vae": "x"})
    assert named_models([f"Steps: 1, Hashes: {hashes}, Version: 1"]) == (
        NamedModel("model", "", "31e35c80fc"),
        NamedModel("lora", "mychar", "1a2b3c4d5e"),
        NamedModel("embed", "neg", "aabbccddee"),
    )
    graph = json.dumps({"1": {"inputs": {"lora_name": "sub\\mychar.safetensors", "ckpt_name": "None"}}})
    assert named_models([graph]) == (NamedModel("lora", "mychar.safetensors", None),)
    assert named_models([graph, f"Hashes: {hashes}"])[0].kind == "model"
    assert NamedModel("lora", "mychar.safetensors", None) not in named_models([graph, f"Hashes: {hashes}"])


def test_what_is_compressed_is_bounded_and_what_is_cut_is_left() -> None:
    bomb = png(chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * (64 << 20), 9)), chunk(b"tEXt", b"p\0" + RAW))
    assert [len(text) for text in texts_of(bomb)] == [0, len(SAID)]
    for data in PICTURES.values():
        for size in range(0, len(data), 7):
            for one in named_models(texts_of(data[:size])):
                assert any((known.hash or "").startswith(one.hash or "-") for known in NAMED), one
    many = ", ".join(f"n{at}: {at:012x}" for at in range(500))
    assert len(named_models([f'Lora hashes: "{many}"'])) == 64


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(
        (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe1", b"RIFF\0\0\0\0WEBP", exif(""), PICTURES["WebP"][:40])
    ),
    st.binary(max_size=200),
    st.integers(0, 400),
)
def test_any_bytes_are_a_picture_without_texts_at_worst(start: bytes, rest: bytes, at: int) -> None:
    damaged = bytearray(PICTURES["JPEG"])
    damaged[at % len(damaged)] ^= 1 + len(rest) % 255
    for data in (start + rest, bytes(damaged), jpeg((0xE1, b"Exif\0\0" + start + rest))):
        assert len(named_models(texts_of(data))) <= 64


def test_a_picture_names_the_revisions_of_its_files(denoiser: Denoiser, shelf: LocalRegistry, tmp_path: Path) -> None:
    weights = weights_of(denoiser("sd")[0])
    file = lora_file(tmp_path / "hashed.safetensors", weights, ("conv_in",), seed=5, metadata={"ss_output_name": "a"})
    shelf.publish(file, "sd/hashed")
    data = file.read_bytes()
    whole = hashlib.sha256(data).hexdigest()
    tensors = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    other = tmp_path / "renamed.safetensors"
    save_file(load_file(file), other, metadata={"modelspec.title": "another"})
    assert shelf.identify(other).published == ("sd/hashed@1",)
    lie = lora_file(tmp_path / "lie.safetensors", weights, ("conv_in",), seed=6)
    shelf.publish(lie, "sd/lie", annotations={"autov3": tensors[:12]})
    base = hashlib.sha256((denoiser("sd")[1] / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    said = (
        f'Steps: 1, Model hash: {base[:10]}, Model: sd, Lora hashes: "hashed: {tensors[:12]}, gone: {"0" * 12}, '
        f'old: 12345678", Hashes: {json.dumps({"lora:byfile": whole[:10]})}'
    )
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(chunk(b"tEXt", b"parameters\0" + said.encode())))
    found = shelf.identify(picture)
    assert (found.kind, found.searched) == ("picture", 0)
    assert {one.name: one.references for one in found.named} == {
        "hashed": ("sd/hashed@1",),
        "gone": (),
        "old": (),
        "byfile": ("sd/hashed@1",),
        "sd": ("sd",),
    }
    why = {one.name: one.reason for one in found.named if one.reason}
    assert why["gone"] == "no file here has this hash"
    assert why["old"].startswith("a hash of 8 digits is of an older kind")
    shelf.retract("sd/hashed@1", reason="wrong")
    assert {one.retracted for one in shelf.identify(picture).named if one.name in ("hashed", "byfile")} == {
        ("sd/hashed@1",)
    }
    shelf.retract("sd/hashed@1", undo=True)


def test_malformed_hashes_are_refused(shelf: LocalRegistry) -> None:
    for text in ("x", "sha256:" + "0" * 64, ",".join(f"{at:012x}" for at in range(65)), "0" * 65, "%" * 12):
        with pytest.raises(UsageError, match="hex digits"):
            shelf._do(table.FIND_HASHES, HashesRequest(hashes=text))


def test_a_picture_without_texts_names_nothing(shelf: LocalRegistry, tmp_path: Path) -> None:
    picture = tmp_path / "plain.png"
    picture.write_bytes(png())
    assert "names no model" in str(shelf.identify(picture).reason)
    assert models_in_picture(tmp_path) is None


def test_a_file_that_fits_nothing_says_why_and_what_it_names(
    denoiser: Denoiser, shelf: LocalRegistry, tmp_path: Path
) -> None:
    weights = {**weights_of(denoiser("sd")[0])}
    weights["down_blocks_9"] = weights["conv_in"]
    said = {"ss_sd_model_name": r"C:\models\flux1-dev.safetensors", "modelspec.architecture": "flux-1-dev/lora"}
    file = lora_file(tmp_path / "other.safetensors", weights, ("conv_in", "down_blocks_9"), metadata=said)
    with pytest.raises(Exception, match=r"1 of the 2 modules .* trained on 'flux1-dev.safetensors, flux-1-dev'"):
        shelf.publish(file, "sd/other")
    found = shelf.identify(file)
    assert found.trained_on == "flux1-dev.safetensors, flux-1-dev"
    assert "fits no base model here; sd: 1 of the 2 modules" in str(found.reason)
