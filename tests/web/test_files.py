"""Pages of files, downloads and tensors: against what the registry hands out, and against values read by numpy."""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from registry.errors import UnavailableError
from registry.http import artifacts
from registry.http.admission import ThreadAdmission
from registry.schemas import ArtifactKind
from tests.kit import plain_base, write_chain
from tests.kit.bases import Base, add_integers
from tests.kit.library import Library, service, with_tokens
from tests.kit.pages import Visitor
from tests.kit.shelf import Shelf, core_artifact
from tests.kit.statements import READS, statements
from tests.kit.tensor_files import parse_tensors, read_tensors

__all__ = ["service"]
ODD = "my file+#%20é'.txt"
COMPUTED = {"body.one.weight", "body.two.weight"}  # of a merged model: what its path changes
KINDS: tuple[ArtifactKind, ...] = ("published", "lora", "merged")


def odd_base(folder: Path) -> Base:
    base = plain_base(folder)
    add_integers(base)
    (folder / ODD).write_text("odd")
    (folder / "extra").mkdir()
    (folder / "extra" / "page.html").write_text("<script>alert(1)</script>")
    return base


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """``tiny/a`` (two revisions), ``tiny/a/x``; ``tiny/b``, which the scope of some hides; ``tiny/off``, retracted."""
    shelf = Shelf(tmp_path_factory.mktemp("library"))
    base = shelf.base("tiny", odd_base)
    first, second, third = write_chain(shelf.root / "chain", base, 3, list(base.modules)[:2])
    publish = shelf.registry.publish
    publish(first, "tiny/a", tags=["prod"])
    publish(third, "tiny/a")
    publish(second, "tiny/a/x", parent="tiny/a@1")
    publish(third, "tiny/b")
    publish(second, "tiny/off")
    shelf.registry.retract("tiny/off@1", reason="wrong data")
    yield with_tokens(shelf)
    shelf.close()


@pytest.fixture(scope="module")
def visitor(service: str, library: Library) -> Iterator[Visitor]:
    with Visitor(service) as made:
        made.sign_in(library.secrets["reader"])
        yield made


def page_of(visitor: Visitor, path: str, status: int = 200) -> str:
    answer = visitor.get(path)
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 100_000
    return answer.text


def links_of(text: str, begin: str) -> list[str]:
    return [one for one in map(html.unescape, re.findall(r'href="([^"]*)"', text)) if one.startswith(begin)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_can_be_downloaded_from_its_page(visitor: Visitor, library: Library, kind: ArtifactKind) -> None:
    text = page_of(visitor, f"/files/tiny/a/x?kind={kind}")
    addresses = links_of(text, "/download/")
    with core_artifact(library.registry, "tiny/a/x", kind=kind) as artifact:
        assert [one.rpartition("/-/")[2] for one in addresses] == [quote(name) for name in artifact.files]
        for address, (name, file) in zip(addresses, artifact.files.items(), strict=True):
            answer = visitor.get(address)
            while answer.is_redirect:
                answer = visitor.get(answer.headers["location"])
            assert answer.content == file.read()
            assert answer.headers["content-disposition"].startswith("attachment")
            part = visitor.get(address, headers={"Range": "bytes=1-2"})
            assert (part.status_code, part.content) == (206, file.read(1, 3))
            if file.digest is not None:
                assert hashlib.sha256(answer.content).hexdigest() in text, name
    assert ("known once it is read" in text) == (kind != "published")


def test_files_of_a_base_model(visitor: Visitor, library: Library) -> None:
    text = page_of(visitor, "/files/tiny")
    addresses = links_of(text, "/download/")
    assert f"/download/published/tiny/-/{quote(ODD)}" in addresses
    assert visitor.get(addresses[addresses.index(f"/download/published/tiny/-/{quote(ODD)}")]).text == "odd"
    page = visitor.get("/download/published/tiny/-/extra/page.html")
    assert page.headers["content-type"] == "application/octet-stream"
    assert "steps" in page_of(visitor, "/tensors/tiny")


def test_a_tag_that_moves_does_not_change_what_a_page_links_to(visitor: Visitor) -> None:
    assert all("tiny/a@1/-/" in one for one in links_of(page_of(visitor, "/files/tiny/a@prod"), "/download/"))


def test_downloads_of_weights_count_as_uses(visitor: Visitor, library: Library) -> None:
    def uses() -> int:
        assert library.registry.deployment.uses is not None
        library.registry.deployment.uses.write()
        found = library.registry.show("tiny/a@2").use
        assert found is not None
        return found.by_interface.get("fetch", 0)

    before = uses()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert visitor.get(f"/download/lora/tiny/a@2/-/{name}").status_code == 200
    assert uses() == before + 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/download/lora/tiny/a/-/none.txt", 404),
        ("/download/lora/tiny/a", 404),
        ("/download/other/tiny/a/-/README.md", 422),
        ("/download/lora/tiny/off/-/adapter_model.safetensors", 410),
        ("/files/tiny/a?kind=other", 422),
        ("/files/tiny/none", 404),
        ("/tensors/tiny/a?tensor=none", 404),
        ("/tensors/tiny/a?start=-1", 422),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(visitor: Visitor, path: str, status: int) -> None:
    assert "<h1>" in page_of(visitor, path, status)


def test_a_revision_without_such_an_artifact_says_why(visitor: Visitor) -> None:
    for path in ("/files/tiny/off?kind=merged", "/tensors/tiny/off?kind=lora", "/files/tiny/off"):
        text = page_of(visitor, path)
        assert "wrong data" in text
        assert "<code>retracted</code>" in text
        assert "/download/" not in text


def test_what_a_token_does_not_see_is_not_there(service: str, library: Library) -> None:
    paths = ("/files/tiny/b", "/tensors/tiny/b", "/download/published/tiny/b/-/adapter_config.json")
    with Visitor(service) as scoped, Visitor(service) as stranger:
        scoped.sign_in(library.secrets["reader of a"])
        assert scoped.get("/files/tiny/a").status_code == 200
        for path in paths:
            hidden, absent = scoped.get(path), scoped.get(path.replace("tiny/b", "tiny/z"))
            assert (hidden.status_code, absent.status_code) == (404, 404)
            without_id = [re.sub(r"<code>[0-9a-f]{32}</code>", "", one.text) for one in (hidden, absent)]
            assert without_id[0].replace("tiny/b", "tiny/z") == without_id[1]
            assert stranger.get(path).status_code == 401


# ------------------------------------------------------------------ tensors


def fact(text: str, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", text)
    assert found is not None, name
    return html.unescape(found[1])


def test_tensors_are_listed_with_their_place(visitor: Visitor, library: Library) -> None:
    with library.registry.artifact("tiny/a/x", kind="merged") as artifact:
        expected = parse_tensors(artifact.files["model.safetensors"].read())
    text = page_of(visitor, "/tensors/tiny/a/x?kind=merged")
    assert f"{len(expected)} tensors" in text
    for name, raw in expected.items():
        assert f">{name}</a>" in text
        assert " × ".join(map(str, raw.shape)) in text
    some = page_of(visitor, "/tensors/tiny/a/x?kind=merged&text=one")
    assert f"{sum('one' in name for name in expected)} of {len(expected)} tensors" in some
    assert "head.weight" not in some
    assert "No tensor has &lt;b&gt;" in page_of(visitor, "/tensors/tiny/a/x?kind=merged&text=<b>")


@pytest.mark.parametrize("kind", KINDS)
def test_figures_and_first_values_are_those_of_the_tensor(
    visitor: Visitor, library: Library, kind: ArtifactKind
) -> None:
    with library.registry.artifact("tiny/a/x", kind=kind) as artifact:
        tensors = {
            name: raw
            for path, file in artifact.files.items()
            if path.endswith(".safetensors")
            for name, raw in parse_tensors(file.read()).items()
        }
    for name, raw in tensors.items():
        text = page_of(visitor, f"/tensors/tiny/a/x?kind={kind}&tensor={quote(name)}")
        values = np.frombuffer(raw.data, "<i8") if raw.dtype == "I64" else raw.values
        wide = values.astype(np.float64).ravel()
        for label, value in {
            "Minimum": wide.min(),
            "Maximum": wide.max(),
            "Mean": wide.mean(),
            "Std": wide.std(),
            "Norm": np.linalg.norm(wide),
        }.items():
            assert float(fact(text, label)) == pytest.approx(value, rel=1e-5, abs=1e-12), (name, label)
        assert fact(text, "Values") == str(wide.size)
        cells = [float(one) for one in re.findall(r'<td class="number">([^<]*)</td>', text)]
        shown = values.reshape(raw.shape)[:8, :8].ravel() if len(raw.shape) > 1 else wide[:64]
        assert cells == pytest.approx(shown.tolist(), rel=1e-3)
        assert ("Computed for this page" in text) == (name in COMPUTED or kind == "lora")


def test_a_large_tensor_is_looked_at_in_part(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MOST_READ", 40)
    text = page_of(visitor, "/tensors/tiny/a/x?kind=merged&tensor=body.one.weight")
    assert "Of the first 10 of 96 values." in text
    assert len(re.findall(r'<td class="number">', text)) == 10  # a row of 8, and the begin of the next


def test_the_line_of_a_tensor_reads_its_bytes_alone(
    visitor: Visitor, library: Library, tmp_path: Path, service: str
) -> None:
    with library.registry.artifact("tiny/a/x", kind="merged") as artifact:
        expected = parse_tensors(artifact.files["model.safetensors"].read())["body.two.weight"]
    text = page_of(visitor, "/tensors/tiny/a/x?kind=merged&tensor=body.two.weight")
    line = next(html.unescape(one) for one in re.findall(r"<code>(curl .*?)</code>", text) if "Range" in one)
    environ = {"PATH": "/usr/bin:/bin", "REGISTRY_TOKEN": library.secrets["reader"]}
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tensor.bin").read_bytes() == expected.data


def test_many_tensors_and_long_names_are_paged(tmp_path: Path, service: str, library: Library) -> None:
    shapes = {f"{'n' * 400}<i>{number:03}.weight": (1, 1) for number in range(130)}
    base = plain_base(tmp_path / "base", shapes)
    library.registry.add_base("many", base.folder)
    found: list[str] = []
    with Visitor(service) as visitor:
        visitor.sign_in(library.secrets["reader"])
        address = "/tensors/many"
        for _ in range(20):
            text = page_of(visitor, address)
            found += re.findall(r'<a class="ref"[^>]*>(n+&lt;i&gt;\d+.weight)</a>', text)
            following = links_of(text, "/tensors/many?kind=published&start=")
            if not following:
                break
            address = following[0]
    assert [html.unescape(one) for one in found] == list(read_tensors(base.folder / "model.safetensors"))


def test_nobody_looks_when_too_many_do(visitor: Visitor, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: ThreadAdmission) -> None:
        raise UnavailableError("too many", code="busy")

    monkeypatch.setattr(ThreadAdmission, "slot", full)
    answer = visitor.get("/tensors/tiny/a/x?kind=merged&tensor=body.two.weight")
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["refresh"]) == (503, "1", "3")
    assert "asks again by itself" in answer.text
    assert visitor.get("/tensors/tiny/a/x?kind=merged").status_code == 200


@pytest.mark.parametrize(
    "page", ["/files/tiny/a/x?kind=merged", "/tensors/tiny/a/x?kind=lora", "/use/tiny/a/x", "/files/tiny"]
)
def test_pages_read_little_and_change_nothing(visitor: Visitor, page: str) -> None:
    page_of(visitor, page)
    with statements() as sent:
        page_of(visitor, page)
    assert len(sent) <= 24
    assert all(statement.lstrip().startswith((*READS, "PRAGMA", "BEGIN")) for statement, _ in sent), sent
