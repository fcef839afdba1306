"""What a LoRA file and its neighbours say becomes annotations and a card: bounded, plain, without folders."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.files.strict_json import MAX_DEPTH
from registry.images.about import about_lora, plain, read_document
from registry.schemas.form import check_annotations
from registry.services.artifacts.readme.front_matter import check, split
from registry.services.local import LocalRegistry
from tests.images.denoisers import weights_of
from tests.images.loras import lora_file
from tests.images.test_lora_files import Denoiser
from tests.kit.png import png

KOHYA = {
    "ss_output_name": "my char",
    "ss_sd_model_name": r"C:\Users\jane doe\models\sd_xl_base_1.0.safetensors",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_training_comment": "from /home/jane/data/set one, second try",
    "ss_tag_frequency": json.dumps({"10_a": {"hat": 3, "smile": 9}, "/home/jane/5_b": {"hat": 7, "tree": 1}}),
    "ss_network_module": "networks.lora",
    "ss_network_dim": "16",
    "ss_network_alpha": "8.0",
    "ss_resolution": "(1024, 1024)",
    "ss_steps": "1200",
    "ss_epoch": "10",
    "ss_training_folder": "/home/jane/secret",
    "modelspec.license": "creativeml-openrail-m",
    "modelspec.author": "Jane",
    "modelspec.trigger_phrase": "mychar woman, red hat",
    "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
}


def test_a_trainers_metadata_become_annotations() -> None:
    assert about_lora(KOHYA).annotations() == {
        "title": "my char",
        "author": "Jane",
        "notes": "from set one, second try",
        "license": "creativeml-openrail-m",
        "trigger_words": "mychar woman, red hat",
        "caption_words": "hat, smile, tree",
        "trained_for": "sd_xl_base_1.0.safetensors, sdxl_base_v1-0",
        "architecture": "stable-diffusion-xl-v1-base",
        "resolution": "1024x1024",
        "network": "rank 16 alpha 8.0",
        "trainer": "sd-scripts",
        "step": "1200",
        "epoch": "10",
    }
    toolkit = {"name": "style", "software": '{"name": "ai-toolkit"}', "training_info": '{"step": 500, "epoch": 3}'}
    told = {"title": "style", "trainer": "ai-toolkit", "step": "500", "epoch": "3"}
    assert about_lora(toolkit).annotations() == told


CIVITAI: dict[str, Any] = {
    "name": "v1.2",
    "baseModel": "SDXL 1.0",
    "trainedWords": ["mychar", "red hat"],
    "description": "<p>Use it <b>gently</b>.</p><script>alert(1)</script>",
    "model": {"name": "My Char", "type": "LORA", "tags": ["character"]},
    "creator": {"username": "jane"},
    "files": [{"path": "/srv/x"}],
}


def test_what_the_user_wrote_counts_before_the_sites_and_the_trainers_words() -> None:
    own = {"activation text": "mychar, hat", "preferred weight": 0.7, "notes": "best at night", "sd version": "SDXL"}
    found = about_lora(KOHYA, [own, CIVITAI])
    assert (found.title, found.author) == ("My Char v1.2", "jane")
    assert (found.trigger, found.strength, found.notes) == (("mychar", "hat"), "0.7", "best at night")
    assert (found.base, found.tags) == ("SDXL", ("character",))
    assert found.description == "Use it gently . alert(1)"
    wrapped = {"model_name": "Mine", "file_path": "C:/x/y", "usage_tips": '{"strength": 0.9}', "civitai": CIVITAI}
    assert (about_lora({}, [wrapped]).title, about_lora({}, [wrapped]).strength) == ("Mine", "0.9")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"see C:\Users\Jane Doe\loras\char.safetensors", "see char.safetensors"),
        (r"\\server\share\x", "x"),
        ("~/train/a b", "a b"),
        ("at /workspace/kohya/out.toml now", "at out.toml now"),
        ("/home/jane doe/set", "set"),
        ("https://civitai.com/models/1 and/or 1/2", "https://civitai.com/models/1 and/or 1/2"),
        ("a\x00b\n\u202ec", "a b c"),
        ("&lt;img src=x onerror=alert(1)&gt;hi", "hi"),
    ],
)
def test_texts_are_plain_and_name_no_folder(text: str, shown: str) -> None:
    assert plain(text) == shown


KEYS = (*KOHYA, "training_info", "software", "modelspec.title", "modelspec.description", "modelspec.tags", "name")
DOCUMENTED = (
    "name", "notes", "description", "activation text", "preferred weight", "sd version", "tags", "trainedWords",
    "model", "creator", "civitai", "usage_tips", "model_name", "base_model", "negative text", "license",
)  # fmt: skip
HOSTILE = st.one_of(
    st.text(max_size=50),
    st.sampled_from(
        (
            "---\nlicense: evil\n---\n", "<script>", "](javascript:1)", "C:\\x\\y", '{"a":', "[" * 2000, "9" * 400,
            "nan", '{"name": [1], "step": 1e999}', "{" + '"a":{' * 70 + "}" * 71, "x" * 9000,
        )
    ),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(HOSTILE, st.none(), st.booleans(), st.integers(), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(DOCUMENTED), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), HOSTILE, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(DOCUMENTED), VALUES, max_size=4), max_size=2),
)
def test_whatever_is_said_can_be_kept_and_shown(metadata: dict[str, str], documents: list[dict[str, Any]]) -> None:
    found = about_lora(metadata, documents)
    kept = check_annotations(found.annotations())
    assert all("\n" not in text and len(text) <= 2600 for text in kept.values()), kept
    card = found.card()
    told = check(card)
    assert set(told) <= {"license", "tags", "instance_prompt"}
    assert told.get("license", found.licence) == found.licence
    assert not any(line.startswith("---") for line in split(card)[1].splitlines())


def test_documents_are_read_within_bounds() -> None:
    assert read_document(b'\xef\xbb\xbf{"notes": "x"}') == {"notes": "x"}
    for data in (b"[1]", b"", b"\xff", b'{"a": 1', b'{"a":' * (MAX_DEPTH + 2), b'{"a":1}' + b" " * (5 << 20)):
        assert read_document(data) == {}


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def test_a_file_comes_with_its_words_and_pictures(denoiser: Denoiser, shelf: LocalRegistry, tmp_path: Path) -> None:
    model, _ = denoiser("sd")
    wild = tmp_path / "models"
    file = lora_file(wild / "MyChar.safetensors", weights_of(model), ("conv_in", "conv_out"), metadata=KOHYA)
    (wild / "MyChar.civitai.info").write_text(json.dumps(CIVITAI))
    (wild / "MyChar.preview.png").write_bytes(png())
    (wild / "MyChar.jpg").write_bytes(SVG)
    (wild / "MyChar2.png").write_bytes(png())
    (wild / "Other.preview.png").write_bytes(png())
    (wild / "MyChar.1.webp").write_bytes(b"RIFF\0\0\0\0WEBPVP8 ")
    answer = shelf.publish(file, "sd/worded", annotations={"title": "Mine"})
    assert answer.revision.annotations["trigger_words"] == "mychar, red hat"
    assert answer.revision.annotations["title"] == "Mine"
    assert [(one.path, one.reason) for one in answer.left_out] == [
        ("MyChar.jpg", "no picture: it begins like no PNG, JPEG or WebP")
    ]
    shown = shelf.show("sd/worded")
    files = {one.path for one in shown.files}
    assert files == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "previews/1.webp",
        "previews/2.png",
    }
    assert not shelf.publish(file, "sd/worded", annotations={"title": "Mine"}).created
    assert not any(text in str(shown.model_dump()) for text in ("secret", "jane doe", str(tmp_path)))
    for words in ("red hat", "My Char", "sdxl_base_v1-0", answer.revision.annotations["autov3"]):
        found = [one.reference for one in shelf.search(words).revisions]
        assert found == ([] if words in ("My Char", "sdxl_base_v1-0") else ["sd/worded@1"]), words
    card = shelf.card("sd/worded").text
    assert check(card)["instance_prompt"] == "mychar, red hat"
    assert "<script>" not in card
    with closing(LocalRegistry.open(tmp_path / "other")) as other:
        shelf.copy("sd/worded", other)
        assert other.show("sd/worded").files == shown.files
        assert other.log("sd/worded").revisions[0].annotations == answer.revision.annotations
