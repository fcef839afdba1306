"""Names of paths are customers' names: nothing of them is in an export, wherever a user put them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from registry.errors import ConflictError
from registry.schemas import ArtifactKind
from registry.transfer.export_contents import Hidden
from tests.kit import add_tokenizer, write_adapter
from tests.transfer.export_house import (
    BASE,
    CHILD,
    PARENT,
    TELLTALES,
    House,
    bytes_in,
    opened,
    with_metadata,
)

KINDS: tuple[ArtifactKind, ...] = ("lora", "merged", "published")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("names")
    with closing(opened(folder)) as registry:
        yield House.build(folder, registry)


def told(data: bytes) -> list[str]:
    return [word for word in TELLTALES if word.encode() in data.lower()]


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_an_export_holds_a_name(house: House, tmp_path: Path, kind: ArtifactKind) -> None:
    exported = house.registry.export(CHILD, tmp_path / "out", kind=kind)
    assert told(bytes_in(tmp_path / "out")) == []
    assert told(exported.card.encode()) == []
    left_out = {item.path for item in exported.left_out}
    assert left_out == ({"notes-qxbird.txt"} if kind == "published" else set())
    assert any("acc_qxacme" in notice for notice in exported.notices)
    assert str(house.registry.url).encode() not in bytes_in(tmp_path / "out")


def test_with_names_paths_go_out_and_annotations_never(house: House, tmp_path: Path) -> None:
    exported = house.registry.export(CHILD, tmp_path / "out", kind="published", with_names=True)
    for word in (f"{PARENT}@2", f"{CHILD}@1", "for qxacme, qxsecret", "# qxbird of qxsecret", "acc_qxacme"):
        assert word in exported.card
    assert (tmp_path / "out" / "notes-qxbird.txt").exists()
    assert json.loads((tmp_path / "out" / "registry-receipt.json").read_text())["reference"] == f"{CHILD}@1"
    assert "customer" not in exported.card
    assert b"qxfolder" not in bytes_in(tmp_path / "out")  # folders of this machine are no names of paths
    assert exported.left_out == ()


@pytest.mark.parametrize("words", [f"from {PARENT}", "QXACME run 5", "qxacme.qxbird"])
def test_weights_that_hold_a_name_are_refused(house: House, tmp_path: Path, words: str) -> None:
    made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=len(words))
    with_metadata(made, {"format": "pt", "note": words})
    ref = house.registry.publish(made, PARENT).revision.reference
    for dry_run in (False, True):
        with pytest.raises(ConflictError, match=r"metadata of adapter_model.safetensors") as refused:
            house.registry.export(ref, tmp_path / "out", kind="published", dry_run=dry_run)
        assert refused.value.code == "names_inside"
    assert not (tmp_path / "out").exists()
    house.registry.export(ref, tmp_path / "out")  # composed weights have no such words
    assert told(bytes_in(tmp_path / "out")) == []


def test_names_before_and_after_a_rename_are_names(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as registry:
        house = House.build(tmp_path, registry)
        made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=81)
        for name in ("qxbird", "qxnewer"):
            with_metadata(made, {"format": "pt", "note": f"for {name}"})
            registry.publish(made, f"{CHILD}", parent=f"{PARENT}@2", metrics={f"acc_{name}": 0.5})
        registry.rename(CHILD, "qxnewer")
        registry.rename_base(BASE, "qxnet")
        for path in (CHILD, f"{PARENT}/qxnewer", "qxnet/qxacme/qxnewer"):
            for number, name in ((2, "qxbird"), (3, "qxnewer")):
                with pytest.raises(ConflictError, match=f"holds '{name}'"):
                    registry.export(f"{path}@{number}", tmp_path / "out", kind="published")
                assert f"acc_{name}" not in registry.export(f"{path}@{number}", tmp_path / "out").card


def test_words_that_every_file_has_are_no_names(house: House, tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=78)
    with_metadata(made, {"format": "pt"})
    for name in ("pt", "format"):
        house.registry.publish(made, f"{BASE}/{name}")
        for kind in KINDS:
            assert house.registry.export(f"{BASE}/{name}", tmp_path / name / kind, kind=kind).created
    with_metadata(made, {"format": "pt", "language": "pt"})
    house.registry.publish(made, f"{BASE}/pt")
    with pytest.raises(ConflictError, match="holds 'pt'"):
        house.registry.export(f"{BASE}/pt", tmp_path / "out", kind="published")


def test_names_after_escapes_are_seen(house: House, tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=79)
    with_metadata(made, {"note": "run 5\nqxacme"})
    ref = house.registry.publish(made, PARENT).revision.reference
    with pytest.raises(ConflictError, match="holds 'qxacme'"):
        house.registry.export(ref, tmp_path / "out", kind="published")
    hidden = Hidden.of(["llama", "llama/support"])
    for text in (
        "bot\nllama/support",
        json.dumps("bot\nllama/support"),
        r"llama\/support",
        r"\u201cllama/support\u201d",
    ):
        assert hidden.path_in(text) == "llama/support"
    assert hidden.path_in("xnllama/support") is None


def test_half_a_surrogate_pair_stays_what_it_was(house: House, tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=80)
    add_tokenizer(made)
    (made / "tokenizer_config.json").write_text(r'{"name_or_path": "/data", "eos_token": "\ud800", "é": "é"}')
    ref = house.registry.publish(made, f"{BASE}/half").revision.reference
    house.registry.export(ref, tmp_path / "out", kind="merged")
    written = (tmp_path / "out" / "tokenizer_config.json").read_text()
    assert json.loads(written) == {"eos_token": "\ud800", "é": "é"}
    assert "é" in written


def test_a_licence_is_the_base_models_own_or_is_said_to_be_left_out(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as registry:
        house = House.build(tmp_path, registry)
        registry.add_base("llama", house.base.folder)  # whose licence is llama3
        registry.publish(tmp_path / "parent-1", "llama/fr")
        assert 'license: "llama3"' in registry.export("llama/fr", tmp_path / "out").card
        registry.set_card("llama/fr", "---\nlicense: llama-for-all\nlanguage: [fr, de]\n---\n# it\n")
        exported = registry.export("llama/fr", tmp_path / "out")
        assert "llama-for-all" not in exported.card
        assert any("'llama-for-all' of license is left out" in notice for notice in exported.notices)
        assert any("'fr' of language is left out" in notice for notice in exported.notices)


def test_a_template_is_read_for_names(house: House, tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "made", house.base, ["q_proj"], seed=77)
    (made / "chat_template.jinja").write_text("You are the qxacme bot.")
    (made / "additional_chat_templates").mkdir()
    (made / "additional_chat_templates" / "qxacme.jinja").write_text("x")
    ref = house.registry.publish(made, PARENT).revision.reference
    exported = house.registry.export(ref, tmp_path / "out", kind="merged")
    assert any("chat_template.jinja has the word 'qxacme'" in notice for notice in exported.notices)
    assert [item.path for item in exported.left_out] == ["additional_chat_templates/qxacme.jinja"]
    (made / "chat_template.jinja").write_text(f"You are {PARENT}.")
    ref = house.registry.publish(made, PARENT).revision.reference
    with pytest.raises(ConflictError, match=r"chat_template.jinja holds"):
        house.registry.export(ref, tmp_path / "out2", kind="merged")


def test_the_sources_of_a_combination_stay_here(house: House, tmp_path: Path) -> None:
    for seed, name in enumerate(("qxleft", "qxright")):
        made = write_adapter(tmp_path / name, house.base, ["q_proj"], seed=seed + 20)
        house.registry.publish(made, f"{BASE}/{name}")
    house.registry.combine({f"{BASE}/qxleft": 0.5, f"{BASE}/qxright": 0.5}, f"{BASE}/mix")
    for kind in KINDS:
        house.registry.export(f"{BASE}/mix", tmp_path / f"out-{kind}", kind=kind)
        data = bytes_in(tmp_path / f"out-{kind}").lower()
        assert not any(word in data for word in (b"qxleft", b"qxright", b"qxbase"))


def test_what_counts_as_a_name() -> None:
    hidden = Hidden.of(["llama", "llama/support", "llama/support/fr"])
    assert hidden.path_in("see llama/support.fr") == "llama/support"
    assert hidden.path_in("support/fr") == "support/fr"
    assert hidden.path_in("xllama/supporter") is None
    assert [hidden.in_text(text) for text in ("Supporting", "acc_fr", "frequency", "acc")] == [True, True, False, False]
    assert hidden.word_in("llama") is None  # the name of a model is in its configuration, too
    assert not Hidden.of(())
    assert not Hidden().in_text(f"{BASE}")
