"""Where a composed adapter or a merged model came from stays with it when it is published or added again.

It is what the receipt in the folder says, outside the digest; and it names only what whoever asks may see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.cli.render.screen import lines_of
from registry.errors import UsageError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas import DerivedFrom, RevisionSummary, Shown, sheets
from registry.services.local import LocalRegistry
from registry.services.publishing.publish import plan_publish
from tests.kit import Base, plain_base, write_adapter
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened
from tests.kit.sending import request_of

SHAPES = {"a.weight": (24, 16), "b.weight": (30, 24)}


@pytest.fixture(params=["embedded", ON_TEAM_AT_LENGTH, ON_HTTP])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with opened(request, tmp_path) as kept:
        fill(kept, tmp_path)
        yield kept


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    opened = LocalRegistry.open(tmp_path / "registry", cache_folder=tmp_path / "cache")
    fill(opened, tmp_path)
    yield opened
    opened.close()


def fill(registry: Any, folder: Path) -> Base:
    """``net/shop`` and ``net/shop/urgency``."""
    base = plain_base(folder / "base", SHAPES)
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(folder / "shop", base, ["a", "b"], r=3, seed=1), "net/shop")
    registry.publish(write_adapter(folder / "urgency", base, ["a", "b"], r=3, seed=2), "net/shop/urgency")
    return base


def revision(registry: Any, ref: str) -> RevisionSummary:
    found: RevisionSummary | None = registry.show(ref).revision
    assert found is not None
    return found


def seen_by(registry: LocalRegistry, *scopes: str) -> LocalRegistry:
    rights = Rights("reader", tuple(TreePath.parse(scope) for scope in scopes))
    return registry.with_principal(Principal("eve", rights))


def text(shown: Shown) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines_of(sheets.shown(shown), None))


def test_a_truncated_adapter_says_what_it_was_made_of(registry: Any, tmp_path: Path) -> None:
    fetched = registry.fetch("net/shop/urgency", tmp_path / "flat", rank=2)
    published = registry.publish(tmp_path / "flat", "net/flat")
    said = published.revision.derived_from
    assert said == revision(registry, "net/flat").derived_from
    tip = revision(registry, "net/shop/urgency@1")
    assert (said.kind, said.reference, said.digest) == ("lora", "net/shop/urgency@1", tip.digest)
    assert said.links == (revision(registry, "net/shop@1").digest, tip.digest)
    assert (said.rank, said.max_error, said.since) == (2, None, None)
    assert said.error == fetched.truncation.total.relative_frobenius
    assert said.plan == json.loads((tmp_path / "flat" / "registry-receipt.json").read_text())["plan_digest"]
    assert f"net/shop/urgency@1, rank 2, error {100 * said.error:.3g} %" in text(registry.show("net/flat"))
    assert [one.reason for one in published.left_out] == ["receipt of a fetch"]
    assert published.revision.notices == ()  # it stands on the base, and was composed to
    assert registry.log("net/flat").revisions[0].derived_from == said
    assert revision(registry, "net/shop").derived_from is None


def test_it_is_in_no_digest(registry: Any, tmp_path: Path) -> None:
    registry.fetch("net/shop/urgency", tmp_path / "flat")
    with_receipt = registry.publish(tmp_path / "flat", "net/flat").revision
    (tmp_path / "flat" / "registry-receipt.json").unlink()
    again = registry.publish(tmp_path / "flat", "net/flat")
    assert (again.created, again.revision.digest) == (False, with_receipt.digest)
    other = registry.publish(tmp_path / "flat", "net/other").revision
    assert (other.digest, other.derived_from) == (with_receipt.digest, None)


def test_a_merged_model_that_is_added_says_it_too(registry: Any, tmp_path: Path) -> None:
    registry.fetch("net/shop/urgency", tmp_path / "merged", kind="merged", dtype="bf16")
    said = registry.add_base("merged", tmp_path / "merged").base.derived_from
    assert (said.kind, said.reference, said.dtype, said.rank) == ("merged", "net/shop/urgency@1", "bf16", None)
    shown = registry.show("merged")
    assert shown.base.derived_from == said
    assert "net/shop/urgency@1, merged, bf16" in text(shown)
    registry.fetch("net", tmp_path / "unchanged", kind="merged")
    said = registry.add_base("again", tmp_path / "unchanged").base.derived_from
    assert (said.reference, said.links) == ("net", ())


def test_a_receipt_of_what_was_trained_on_is_another_one(registry: Any, tmp_path: Path) -> None:
    """An adapter that a trainer saved into the folder of the model: the receipt there proves its parent."""
    registry.fetch("net/shop", tmp_path / "merged", kind="merged")
    trained = write_adapter(tmp_path / "trained", plain_base(tmp_path / "same", SHAPES), ["a"], r=2, seed=9)
    config = json.loads((trained / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "merged")
    (tmp_path / "merged" / "adapter_config.json").write_text(json.dumps(config))
    (trained / "adapter_model.safetensors").rename(tmp_path / "merged" / "adapter_model.safetensors")
    published = registry.publish(tmp_path / "merged", "net/shop/next")
    assert published.revision.derived_from is None
    assert published.revision.parent == "net/shop@1"
    assert "receipt" in published.parent_reason


def test_a_composed_copy_of_a_revision_as_its_next_one_is_noticed(registry: Any, tmp_path: Path) -> None:
    registry.fetch("net/shop", tmp_path / "cut", rank=1)
    (notice,) = registry.publish(tmp_path / "cut", "net/shop").revision.notices
    assert "truncated copy of net/shop@1" in notice
    registry.fetch("net/shop/urgency", tmp_path / "whole")
    own, twice = registry.publish(tmp_path / "whole", "net/shop/urgency", parent="net/shop@1").revision.notices
    assert "composed copy of net/shop/urgency@1" in own
    assert "for use on the base model" in twice
    assert "net/shop@1" in twice
    registry.fetch("net/shop/urgency@1", tmp_path / "link", since="net/shop@1", rank=1)
    (own,) = registry.publish(tmp_path / "link", "net/shop/urgency", parent="net/shop@1").revision.notices
    assert "truncated copy of net/shop/urgency@1" in own
    assert revision(registry, "net/shop/urgency").derived_from.since == "net/shop@1"  # type: ignore[union-attr]


def test_a_reference_is_shown_to_whom_may_see_it(local: LocalRegistry, tmp_path: Path) -> None:
    local.fetch("net/shop/urgency", tmp_path / "flat", rank=2)
    said = local.publish(tmp_path / "flat", "net/flat").revision.derived_from
    assert said is not None
    for scopes, named in ((("net/flat",), False), (("net/flat", "net/shop/urgency"), True), (("net",), True)):
        seen = seen_by(local, *scopes)
        found = revision(seen, "net/flat").derived_from
        assert found is not None
        assert (found.kind, found.rank, found.error) == ("lora", 2, said.error)
        if named:
            assert found == said
        else:
            assert found == DerivedFrom(kind="lora", rank=2, error=said.error)
            assert "urgency" not in seen.show("net/flat").model_dump_json()
            assert "a revision that is not visible here, rank 2" in text(seen.show("net/flat"))


def test_what_is_not_here_is_not_named(local: LocalRegistry, tmp_path: Path) -> None:
    """A receipt of another registry, or of a path that means other bytes here."""
    local.fetch("net/shop/urgency", tmp_path / "flat")
    other = LocalRegistry.open(tmp_path / "other", cache_folder=tmp_path / "cache")
    base = plain_base(tmp_path / "other-base", SHAPES)
    other.add_base("net", base.folder)
    other.publish(write_adapter(tmp_path / "x", base, ["a"], seed=7), "net/shop")
    other.publish(write_adapter(tmp_path / "y", base, ["a"], seed=8), "net/shop/urgency")
    assert other.publish(tmp_path / "flat", "net/flat").revision.derived_from == DerivedFrom(kind="lora")
    other.close()


def test_what_was_deleted_is_not_named(local: LocalRegistry, tmp_path: Path) -> None:
    local.fetch("net/shop/urgency", tmp_path / "flat", rank=2)
    said = local.publish(tmp_path / "flat", "net/flat").revision.derived_from
    assert said is not None
    local.delete("net/shop/urgency@1")
    assert revision(local, "net/flat").derived_from == DerivedFrom(kind="lora", rank=2, error=said.error)
    local.delete("net/shop/urgency@1", undo=True)
    assert revision(local, "net/flat").derived_from == said


def test_a_copy_takes_it_along(registry: Any, tmp_path: Path) -> None:
    registry.fetch("net/shop/urgency", tmp_path / "flat", rank=2)
    said = registry.publish(tmp_path / "flat", "net/flat").revision.derived_from
    registry.fetch("net/shop", tmp_path / "merged", kind="merged")
    registry.add_base("made", tmp_path / "merged")
    target = LocalRegistry.open(tmp_path / "target", cache_folder=tmp_path / "cache")
    registry.copy("net/flat", target)
    assert revision(target, "net/flat").derived_from == DerivedFrom(kind="lora", rank=2, error=said.error)
    registry.copy("net", target, recursive=True)
    assert revision(target, "net/flat").derived_from == said  # now what it was made of is there
    registry.copy("made", target)
    assert target.show("made").base.derived_from == registry.show("made").base.derived_from
    target.close()


@pytest.mark.parametrize("document", ["{", '{"format": 1}', '{"format": 9}'])
def test_a_receipt_that_can_not_be_read_is_told(registry: Any, tmp_path: Path, document: str) -> None:
    registry.fetch("net/shop/urgency", tmp_path / "flat")
    (tmp_path / "flat" / "registry-receipt.json").write_text(document)
    published = registry.publish(tmp_path / "flat", "net/flat")
    assert published.revision.derived_from is None
    assert [one.reason for one in published.left_out] == [
        "receipt of a fetch that can't be read: its content is not recorded"
    ]


@pytest.mark.parametrize(
    "changes",
    [{"reference": "no reference"}, {"reference": "net/shop"}, {"since": "net@prod"}, {"reference": "x" * 500}],
)
def test_what_a_client_says_has_a_form(local: LocalRegistry, tmp_path: Path, changes: dict[str, str]) -> None:
    made = request_of(tmp_path / "shop", "net/more")
    said = DerivedFrom.model_validate({"kind": "lora", **changes})
    with pytest.raises(UsageError, match="derived from"):
        plan_publish(local.deployment, made.request.model_copy(update={"derived_from": said}))
