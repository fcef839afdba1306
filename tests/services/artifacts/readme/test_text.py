"""README.md of computed artifacts: what it says, that it is YAML whatever people wrote, and that it names nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from registry.app import service_app
from registry.catalogue.tree.commits import MEANT
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.schemas import ArtifactKind
from registry.schemas.receipt import rendering_digest
from registry.services.artifacts import commits
from registry.services.artifacts.readme import front_matter
from registry.tensors.artifacts.plan import ARTIFACT_FORMAT
from tests.kit import plain_base, write_adapter
from tests.kit.bases import Base
from tests.kit.library import running
from tests.kit.shelf import Shelf

CARD = '---\nlicense: llama3.2\nlicense_name: "a\\": [b"\npipeline_tag: fill-mask\nlibrary_name: other\n---\n# Base\n'
OWN = "---\nlanguage: [fr, de]\ntags:\n- fun\nlicense: mit\n---\n# Own\n<!-- unclosed\n---\nlicense: evil\n---\n"


def base_with_card(folder: Path) -> Base:
    base = plain_base(folder)
    (folder / "README.md").write_text(CARD)
    return base


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    root = tmp_path_factory.mktemp("readme")
    shelf = Shelf(root)
    base = shelf.base("net", base_with_card)
    for number, path in enumerate(("net/secret", "net/secret/own")):
        folder = write_adapter(root / f"adapter{number}", base, list(base.modules)[:1], r=2, seed=number)
        if number == 1:
            (folder / "README.md").write_text(OWN)
        shelf.registry.publish(folder, path)
    yield shelf
    shelf.close()


def readme(shelf: Shelf, ref: str, **options: Any) -> str:
    with shelf.registry.artifact(ref, **options) as artifact:
        file = artifact.file("README.md")
        return b"".join(file.chunks(0, file.size)).decode()


@pytest.mark.parametrize("kind", ["merged", "lora"])
def test_it_is_made_of_the_lineage_and_names_no_ancestor(shelf: Shelf, kind: str) -> None:
    text = readme(shelf, "net/secret/own", kind=kind)
    head, rest = text.removeprefix("---\n").split("\n---\n", 1)
    metadata = yaml.safe_load(head)
    assert metadata == {
        "base_model": "net/_",
        "base_model_relation": "finetune" if kind == "merged" else "adapter",
        "library_name": "other" if kind == "merged" else "peft",
        "license": "llama3.2",
        "license_name": 'a": [b',
        "pipeline_tag": "fill-mask",
        "language": ["fr", "de"],
        "tags": ["fun"],
    }
    lineage = shelf.registry.resolve("net/secret/own").lineage
    at = [rest.index(f"`{entry.digest}`") for entry in lineage]
    assert at == sorted(at)
    assert "secret" not in text
    assert "# Base" not in text
    assert text.endswith(OWN.split("---\n", 2)[2])
    assert "## README of the revision" not in readme(shelf, "net/secret", kind=kind)


def test_a_base_keeps_its_own_card_and_published_files_are_as_published(shelf: Shelf) -> None:
    assert readme(shelf, "net", kind="merged") == CARD
    assert readme(shelf, "net/secret/own", kind="published") == OWN


def test_what_it_applies_to_after_an_ancestor(shelf: Shelf) -> None:
    text = readme(shelf, "net/secret/own", kind="lora", since="net/secret")
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "net/secret"
    assert "the merged model of an ancestor" in text


@given(st.text())
def test_quotes_hold_every_text(text: str) -> None:
    assert yaml.safe_load(f"a: {front_matter.quoted(text)}\nb: 1") == {"a": text, "b": 1}


@given(st.text(alphabet="-abc:[]{}&*!\n \"'#?|>\t", max_size=60))
def test_any_text_is_metadata_or_none(text: str) -> None:
    """Published cards are read whatever they are."""
    metadata, _ = front_matter.split(f"---\n{text}\n---\nrest")
    assert isinstance(metadata, dict)


@pytest.mark.parametrize("kind", ["merged", "lora"])
def test_a_folder_of_the_format_before_is_verified_but_for_its_readme(
    shelf: Shelf, tmp_path: Path, kind: ArtifactKind
) -> None:
    """A composed adapter had none then, and a merged model that of its base."""
    folder = Path(shelf.registry.fetch("net/secret/own", tmp_path / "out", kind=kind).folder)
    there = read_receipt(folder)
    before = there.model_copy(
        update={
            "rendering": rendering_digest(there.plan_digest, ARTIFACT_FORMAT - 1, there.numerics, None),
            "versions": there.versions.model_copy(update={"artifact_format": ARTIFACT_FORMAT - 1}),
            "files": tuple(file for file in there.files if file.path != "README.md"),
        }
    )
    (folder / RECEIPT).write_text(before.model_dump_json())
    (folder / "README.md").unlink()
    told = shelf.registry.verify(folder)
    assert (told.equal, told.exact) == (True, False)
    (folder / RECEIPT).write_text(there.model_dump_json())
    assert [one.file for one in shelf.registry.verify(folder).mismatches] == ["README.md"]


def test_a_commit_of_the_format_before_is_told_from_one_that_never_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(service_app(shelf.registry, "open")) as address, httpx.Client(base_url=address) as client:
        now = client.get("/hf/api/models/net/secret").json()["sha"]
        with monkeypatch.context() as earlier:
            earlier.setattr(commits, "ARTIFACT_FORMAT", ARTIFACT_FORMAT - 1)
            commits._made_by.cache_clear()
            before = client.get("/hf/api/models/net/secret").json()["sha"]
        commits._made_by.cache_clear()
        assert before[:MEANT] == now[:MEANT]
        gone = client.get(f"/hf/net/secret/resolve/{before}/README.md")
        assert (gone.status_code, "another version of the registry" in gone.json()["error"]) == (503, True)
        never = client.get(f"/hf/net/secret/resolve/{'0' * 40}/README.md")
        assert (never.status_code, never.headers["x-error-code"]) == (404, "RevisionNotFound")
