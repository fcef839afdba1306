"""Every single value of a receipt: `verify` notices that it was changed, or the docs say that it is only told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import select

from registry.catalogue.database.tables import BaseModelRecord
from registry.client.remote import RemoteRegistry
from registry.errors import RegistryError, UsageError
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import FetchCache
from registry.schemas import ArtifactKind
from registry.schemas.receipt import README_FORMAT, rendering_digest
from registry.services.local import LocalRegistry
from registry.services.local_merge import LocalArithmetic
from tests.kit import plain_base, write_adapter
from tests.kit.registries import ON_HTTP
from tests.kit.serving import QUICK, served
from tests.root import ROOT

AnyRegistry = LocalRegistry | RemoteRegistry
TOLD: Final = ("registry", "versions.registry", "versions.torch", "versions.python", "notices")
"""What docs/cli.md says is not compared."""
ASKED: Final = ("truncation.rank", "truncation.max_error")  # as long as the same ranks follow
NOT_FROM_A_SERVICE: Final = ("fidelity",)  # unless it is materialised there
OPTIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "published": ("net/one/two", {"kind": "published"}),
    "lora": ("net/one/two", {}),
    "since": ("net/one/two", {"since": "net/one@1", "dtype": "fp16"}),
    "rank": ("net/one/two", {"rank": 2, "uniform": True}),
    "error": ("net/one/two", {"max_error": 0.3, "dtype": "bf16"}),
    "merged": ("net/one/two", {"kind": "merged"}),
    "weighted": ("net/one/two@1:0.75", {"kind": "merged", "weights": {"one": -2}}),
    "merged in full": ("net/one", {"kind": "merged", "fidelity": "full"}),
    "merged in fp16": ("net/one", {"kind": "merged", "dtype": "fp16"}),
    "a base": ("net", {"kind": "merged"}),
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    folder = tmp_path_factory.mktemp("receipts")
    with LocalRegistry.open(folder / "registry", cache_folder=folder / "cache") as opened:
        base = plain_base(folder / "base", {"a.weight": (20, 16), "b.weight": (320, 224)}, dtype="BF16")
        opened.add_base("net", base.folder)
        opened.publish(write_adapter(folder / "one", base, ["a", "b"], r=2, size=0.02), "net/one")
        two = write_adapter(folder / "two", base, ["a", "b"], r=3, alpha=4, seed=2, size=0.02)
        opened.publish(two, "net/one/two", parent="net/one@1")
        yield opened


@pytest.fixture(scope="module", params=["embedded", ON_HTTP])
def registry(request: pytest.FixtureRequest, local: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "embedded":
        yield local
        return
    with served(local) as url:
        cache = FetchCache(tmp_path_factory.mktemp("cache"))
        client = RemoteRegistry(url, None, cache=cache, arithmetic=LocalArithmetic, retry=QUICK)
        yield client
        client.close()


def _leaves(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    parts = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in parts:
        if isinstance(value, dict | list) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _name(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path if isinstance(part, str))


def _others(value: Any) -> Iterator[Any]:
    """Values like it that are not it."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float):
        yield from (value * 1.5 + 0.001, value / 3 - 0.001)
    elif value is None:
        yield from ("bf16", "net/one@1", 1, 0.5)
    elif isinstance(value, list | dict):
        yield ["something"]
    else:
        yield f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"
        yield re.sub(r"\d+$", lambda found: str(int(found[0]) + 1), value)
        yield from {"bf16": ["fp32"], "fp16": ["bf16"], "sample": ["full"], "full": ["sample"]}.get(value, [])


def _changed(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    place = copy
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return copy


def _passes(registry: AnyRegistry, folder: Path) -> bool:
    with suppress(RegistryError):
        return registry.verify(folder).equal
    return False


@pytest.mark.long_on("http")
@pytest.mark.slow_on("published", "lora", "since", "rank", "merged in full", "merged in fp16", "a base")
@pytest.mark.parametrize("how", OPTIONS)
def test_a_changed_value_is_noticed_or_only_told(registry: AnyRegistry, tmp_path: Path, how: str) -> None:
    ref, options = OPTIONS[how]
    out = tmp_path / "out"
    if isinstance(registry, RemoteRegistry):
        options = {name: value for name, value in options.items() if name != "fidelity"}
    registry.fetch(ref, out, **options)
    there = (out / RECEIPT).read_text()
    document = json.loads(there)
    answer = registry.verify(out)
    assert (answer.equal, answer.exact, answer.mismatches, answer.beside) == (True, True, (), ())
    passed, tried = [], 0
    for path in _leaves(document):
        before = document
        for part in path:
            before = before[part]
        for value in _others(before):
            if value == before:
                continue
            tried += 1
            (out / RECEIPT).write_text(json.dumps(_changed(document, path, value)))
            if _passes(registry, out):
                passed.append((_name(path), before, value))
    assert tried > 50
    told = {*TOLD, *ASKED, *(NOT_FROM_A_SERVICE if isinstance(registry, RemoteRegistry) else ())}
    assert [one for one in passed if one[0] not in told and one[0].split(".")[0] not in told] == []
    for name, _, value in passed:
        if name in ASKED:  # the same ranks follow
            (out / RECEIPT).write_text(there)
            asked = {**options, name.removeprefix("truncation."): value}
            assert registry.artifact(ref, **asked).rendering == document["rendering"]
    (out / RECEIPT).write_text(there)
    assert registry.verify(out).equal


def test_the_docs_say_what_is_only_told() -> None:
    page = (ROOT / "docs" / "cli.md").read_text().partition("## registry verify")[2].partition("\n## ")[0]
    assert [name for name in (*TOLD, *ASKED, *NOT_FROM_A_SERVICE) if f"`{name}`" not in page] == []


def test_what_only_the_receipt_has_wrong_is_named(registry: AnyRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    registry.fetch("net/one/two", out, rank=2)
    document = json.loads((out / RECEIPT).read_text())
    document["lineage"][0]["rank"] = 7
    document["plan"]["base_files"] = "sha256:0"
    del document["files"][0]
    (out / RECEIPT).write_text(json.dumps(document))
    found = registry.verify(out)
    assert (found.equal, {one.file for one in found.mismatches}) == (False, {RECEIPT})
    assert [one.reason for one in found.mismatches][:2] == [
        "files lacks 'README.md'",
        "lineage[0].rank is 7, and the registry's is 2",
    ]
    assert found.mismatches[2].reason.startswith("plan.base_files is sha256:0, and the registry's is sha256:")


@pytest.mark.parametrize("kind", ["merged", "lora"])
def test_a_rendering_that_was_changed_is_no_closeness(
    registry: AnyRegistry, tmp_path: Path, kind: ArtifactKind
) -> None:
    """Alone it contradicts the receipt; with the arithmetic that it is made of, values are compared, which is said."""
    out = tmp_path / "out"
    registry.fetch("net/one/two", out, kind=kind)
    there = read_receipt(out)
    for fields in ({"rendering": "sha256:" + "0" * 64}, {"numerics": "another"}):
        (out / RECEIPT).write_text(there.model_copy(update=fields).model_dump_json())
        found = registry.verify(out)
        assert not found.equal
        assert all(one.file == RECEIPT for one in found.mismatches)
    name = registry.show("net").repo_id
    forged = rendering_digest(there.plan_digest, README_FORMAT, "another", name)
    (out / RECEIPT).write_text(there.model_copy(update={"numerics": "another", "rendering": forged}).model_dump_json())
    found = registry.verify(out)
    assert (found.equal, found.exact) == (True, False)
    assert found.not_exact == f"made with the arithmetic another, and the registry's is {there.numerics}"


def test_the_name_in_readme_is_that_of_the_hub(local: LocalRegistry, tmp_path: Path) -> None:
    """A client finds out by which name the service's rendering is made, and holds the receipt's against it."""
    base = plain_base(tmp_path / "base", {"a.weight": (8, 8)})
    local.add_base("hub", base.folder)
    with local.deployment.database.write() as session:
        row = session.scalars(select(BaseModelRecord).where(BaseModelRecord.name == "hub")).one()
        row.source = f"hf:org/net@{'0' * 40}"
    local.publish(write_adapter(tmp_path / "one", base, ["a"], r=2), "hub/one", parent="hub")
    with served(local) as url:
        client = RemoteRegistry(url, None, cache=FetchCache(tmp_path / "c"), arithmetic=LocalArithmetic, retry=QUICK)
        client.fetch("hub/one", tmp_path / "out", kind="merged")
        assert client.verify(tmp_path / "out").equal
        there = read_receipt(tmp_path / "out")
        assert there.rendering == rendering_digest(there.plan_digest, README_FORMAT, there.numerics, "org/net")
        forged = there.model_copy(update={"numerics": "another", "rendering": "sha256:" + "0" * 64})
        (tmp_path / "out" / RECEIPT).write_text(forged.model_dump_json())
        assert not client.verify(tmp_path / "out").equal
        client.close()


def test_a_service_holds_the_figures_against_what_it_measured(local: LocalRegistry, tmp_path: Path) -> None:
    local.materialise("net/one", kind="merged", fidelity="full")
    with served(local) as url:
        client = RemoteRegistry(url, None, cache=FetchCache(tmp_path / "c"), arithmetic=LocalArithmetic, retry=QUICK)
        client.fetch("net/one", tmp_path / "out", kind="merged")
        document = json.loads((tmp_path / "out" / RECEIPT).read_text())
        assert client.verify(tmp_path / "out").equal
        document["fidelity"]["surviving_share"] += 0.01
        (tmp_path / "out" / RECEIPT).write_text(json.dumps(document))
        told = [one.reason for one in client.verify(tmp_path / "out").mismatches]
        assert len(told) == 1
        assert told[0].startswith("fidelity.surviving_share is ")
        client.close()
    for kept in local.materialisations("net/one"):
        local.drop_materialisation(kept.id)


def test_revisions_may_have_other_numbers_that_agree(local: LocalRegistry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    local.fetch("net/one/two", out, since="net/one@1")
    document = json.loads((out / RECEIPT).read_text())
    document["registry"] = "https://elsewhere"
    document["reference"] = document["lineage"][1]["reference"] = "net/one/two@5"
    document["lineage"][1]["number"] = 5
    document["since"] = document["lineage"][0]["reference"] = "net/one@4"
    document["lineage"][0]["number"] = 4
    (out / RECEIPT).write_text(json.dumps(document))
    found = local.verify(out)
    assert (found.equal, found.reference) == (True, "net/one/two@1")
    document["registry"] = local.url  # where they were deleted, and published again
    (out / RECEIPT).write_text(json.dumps(document))
    assert local.verify(out).equal
    document["since"] = "net/one@1"
    (out / RECEIPT).write_text(json.dumps(document))
    assert not local.verify(out).equal


def test_an_export_is_not_verified_whatever_its_receipt_says(local: LocalRegistry, tmp_path: Path) -> None:
    local.export("net/one", tmp_path / "out")
    document = json.loads((tmp_path / "out" / RECEIPT).read_text())
    for path in _leaves(document):
        (tmp_path / "out" / RECEIPT).write_text(json.dumps(_changed(document, path, "x")))
        with pytest.raises(RegistryError):
            local.verify(tmp_path / "out")
    (tmp_path / "out" / RECEIPT).write_text(json.dumps(document))
    with pytest.raises(UsageError, match="is an export"):
        local.verify(tmp_path / "out")
