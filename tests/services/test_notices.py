"""Notices about the weights of a revision: what is said, to whom, how long, and what a strict publish refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from registry.catalogue.changes import fingerprints
from registry.errors import InvalidAdapterError, UsageError
from registry.operations.registry import Registry
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.schemas.tags import MEASURED_CODES, NOTICE_CODES, Notice
from registry.services.deployment import Deployment
from registry.services.local import LocalRegistry
from tests.kit import Base, plain_base, read_tensors, write_adapter, write_tensors
from tests.kit.floats import Array
from tests.kit.registries import ON_HTTP, ON_TEAM_AT_LENGTH, opened
from tests.kit.serving import ServedRegistry
from tests.kit.tensor_files import RawTensor

SHAPES = {"a.weight": (24, 16), "b.weight": (16, 24)}
pytestmark = pytest.mark.slow_on("http")
EMBEDDED = pytest.mark.parametrize("registry", ["embedded"], indirect=True)
INSIDE = pytest.mark.parametrize("registry", ["embedded", ON_TEAM_AT_LENGTH], indirect=True)


@pytest.fixture(params=["embedded", ON_HTTP, ON_TEAM_AT_LENGTH])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registry]:
    with opened(request, tmp_path) as kept:
        yield kept


@pytest.fixture
def base(registry: Registry, tmp_path: Path) -> Base:
    """In the registry as net."""
    made = plain_base(tmp_path / "base", SHAPES)
    registry.add_base("net", made.folder)
    return made


def adapter(base: Base, name: str, *, seed: int, size: float = 0.1) -> Path:
    return write_adapter(base.folder.parent / name, base, ["a", "b"], r=4, seed=seed, size=size)


def changed(folder: Path, name: str, **factors: object) -> Path:
    """A copy of an adapter in which some factors are others: by module and letter, functions of what they were."""
    copy = folder.parent / name
    shutil.copytree(folder, copy)
    tensors = read_tensors(folder / "adapter_model.safetensors")
    for key, change in factors.items():
        module, letter = key.split("_")
        at = f"base_model.model.{module}.lora_{letter}.weight"
        assert callable(change)
        tensors[at] = RawTensor.of(change(tensors[at].values), tensors[at].dtype)
    write_tensors(copy / "adapter_model.safetensors", tensors)
    return copy


def zeros(values: Array) -> Array:
    return np.zeros_like(values)


def first_column(values: Array) -> Array:
    found: Array = values * np.array([1, 1e-3, 1e-3, 1e-3])
    return found


def delta(folder: Path) -> Array:
    """All of it, as one vector."""
    tensors = {name: raw.values for name, raw in read_tensors(folder / "adapter_model.safetensors").items()}
    parts = [
        2.0 * tensors[f"base_model.model.{module}.lora_B.weight"] @ tensors[f"base_model.model.{module}.lora_A.weight"]
        for module in ("a", "b")
    ]
    return np.concatenate([part.ravel() for part in parts])


def told(notices: Sequence[Notice]) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [(one.code, one.reference, one.names) for one in notices]


def noticed(registry: Registry, ref: str) -> tuple[Notice, ...]:
    """What ``show`` says, once the job has looked, or by asking for statistics where there are no jobs."""
    if isinstance(registry, ServedRegistry):
        wait_for_jobs(registry.local.deployment)
    else:
        registry.stats(ref)
    return registry.show(ref).notices


def wait_for_jobs(where: Deployment) -> None:
    import time

    until = time.monotonic() + 60
    query = text("SELECT count(*) FROM operations WHERE kind = 'notice' AND state IN ('pending', 'running')")
    while time.monotonic() < until:
        with where.read_everything() as session:
            if not session.scalar(query):
                return
        time.sleep(0.05)
    raise AssertionError("the jobs do not end")


def scoped(registry: Registry, *paths: str) -> LocalRegistry:
    assert isinstance(registry, LocalRegistry)
    rights = Rights("writer", tuple(map(TreePath.parse, paths)))
    return registry.with_principal(Principal("ann", rights))


def test_a_usual_adapter_has_none(registry: Registry, base: Base) -> None:
    answer = registry.publish(adapter(base, "one", seed=1), "net/one")
    assert answer.notices == ()
    assert noticed(registry, "net/one") == ()


def test_zero_and_one_direction(registry: Registry, base: Base) -> None:
    usual = adapter(base, "usual", seed=1)
    zero = registry.publish(changed(usual, "zero", a_B=zeros), "net/zero")
    assert told(zero.notices) == [("zero_delta", None, ("a",))]
    assert (zero.notices[0].modules, zero.notices[0].of) == (1, 2)
    assert "1 of 2 modules" in zero.notices[0].text
    both = registry.publish(changed(usual, "both", a_B=first_column, b_A=zeros), "net/both")
    assert told(both.notices) == [("zero_delta", None, ("b",)), ("one_direction", None, ("a",))]
    assert registry.show("net/both@1").notices[:2] == both.notices
    again = registry.publish(base.folder.parent / "both", "net/both")
    assert not again.created
    assert again.notices[:2] == both.notices


def test_the_same_files_elsewhere(registry: Registry, base: Base) -> None:
    folder = adapter(base, "one", seed=1)
    registry.publish(folder, "net/one")
    answer = registry.publish(folder, "net/two")
    assert told(answer.notices) == [("duplicate", "net/one@1", ())]
    again = registry.publish(folder, "net/one")  # itself
    assert (again.created, again.notices) == (False, ())
    other = registry.publish(changed(folder, "other"), "net/one/below")  # as a child of itself
    assert told(other.notices) == [("duplicate", "net/one@1", ())]


def test_strict_publishes_nothing(registry: Registry, base: Base) -> None:
    usual = adapter(base, "usual", seed=1)
    zero = changed(usual, "zero", a_B=zeros)
    for strict in (True, ["zero_delta"], ["duplicate", "zero_delta"]):
        with pytest.raises(InvalidAdapterError, match="1 of 2 modules is zero") as refused:
            registry.publish(zero, "net/zero", strict=strict)
        assert refused.value.code == "zero_delta"
    assert registry.tree("net").roots[0].children == ()
    registry.publish(usual, "net/usual", strict=True)
    registry.publish(zero, "net/zero", strict=["one_direction"])
    with pytest.raises(InvalidAdapterError) as refused:
        registry.publish(usual, "net/again", strict=True)
    assert refused.value.code == "duplicate"
    with pytest.raises(InvalidAdapterError) as refused:  # it is there, and has the notice
        registry.publish(zero, "net/zero", strict=True)
    assert refused.value.code == "zero_delta"
    with pytest.raises(UsageError, match="zero_delta, one_direction"):
        registry.publish(usual, "net/again", strict=["nope"])


def test_strict_about_what_takes_computing(registry: Registry, base: Base) -> None:
    """It is looked for before anything is stored, whether or not a job has measured the siblings yet."""
    one = adapter(base, "one", seed=1)
    registry.publish(one, "net/one")
    with pytest.raises(InvalidAdapterError) as refused:
        registry.publish(changed(one, "twin", a_B=lambda b: 3 * b, b_B=lambda b: 3 * b), "net/twin", strict=True)
    assert refused.value.code == "like_sibling"
    with pytest.raises(InvalidAdapterError) as refused:
        registry.publish(
            changed(one, "undone", a_B=lambda b: -b, b_B=lambda b: -b), "net/one/undone", strict=["undoes_parent"]
        )
    assert refused.value.code == "undoes_parent"
    with pytest.raises(InvalidAdapterError) as refused:
        registry.publish(adapter(base, "large", seed=2, size=1.5), "net/large", strict=["larger_than_base"])
    assert refused.value.code == "larger_than_base"
    assert [child.path for child in registry.tree("net").roots[0].children] == ["net/one"]
    registry.publish(adapter(base, "other", seed=3, size=0.1), "net/other", strict=True)


def test_larger_than_the_base(registry: Registry, base: Base) -> None:
    large = adapter(base, "large", seed=1, size=1.5)
    small = adapter(base, "small", seed=2, size=0.99)
    registry.publish(large, "net/large")
    registry.publish(small, "net/small")
    (found,) = noticed(registry, "net/large")
    assert (found.code, found.modules, found.of, found.names) == ("larger_than_base", 2, 2, ("a", "b"))
    assert found.value == pytest.approx(1.5, rel=1e-5)
    assert noticed(registry, "net/small") == ()


def test_like_a_sibling(registry: Registry, base: Base) -> None:
    one = adapter(base, "one", seed=1)
    other = delta(adapter(base, "other", seed=9))
    twin = changed(one, "twin", a_B=lambda b: 3 * b, b_B=lambda b: 3 * b + 3e-3)
    cosine = delta(one) @ delta(twin) / np.linalg.norm(delta(one)) / np.linalg.norm(delta(twin))
    assert 0.99 < cosine < 1
    assert abs(delta(one) @ other) < 0.5 * np.linalg.norm(delta(one)) * np.linalg.norm(other)
    for name, folder in (("one", one), ("other", base.folder.parent / "other"), ("twin", twin)):
        registry.publish(folder, f"net/{name}")
        assert (name == "twin") == bool(noticed(registry, f"net/{name}"))
    (found,) = registry.show("net/twin").notices
    assert (found.code, found.reference) == ("like_sibling", "net/one@1")
    assert found.value == pytest.approx(cosine, abs=1e-9)
    opposite = changed(one, "opposite", a_B=lambda b: -b, b_B=lambda b: -b)
    registry.publish(opposite, "net/opposite")
    assert noticed(registry, "net/opposite") == ()
    registry.publish(changed(twin, "below"), "net/one/below", strict=["one_direction"])  # a child is no sibling
    assert [one.code for one in noticed(registry, "net/one/below")] == ["duplicate"]


def test_a_link_that_undoes_its_parent(registry: Registry, base: Base) -> None:
    parent = adapter(base, "parent", seed=1)
    registry.publish(parent, "net/p")
    for name, share in (("little", 0.4), ("much", 0.6), ("more", 2.0)):
        undone = changed(parent, name, a_B=lambda b, share=share: -share * b, b_B=lambda b, share=share: -share * b)
        registry.publish(undone, f"net/p/{name}")
    assert noticed(registry, "net/p/little") == ()
    for name, share in (("much", 0.6), ("more", 2.0)):
        found = [one for one in noticed(registry, f"net/p/{name}") if one.code == "undoes_parent"]
        assert [(one.reference, round(one.value or 0, 6)) for one in found] == [("net/p@1", share)]


@EMBEDDED
def test_what_a_token_does_not_see_is_not_told(registry: Registry, base: Base) -> None:
    one = adapter(base, "one", seed=1)
    registry.publish(one, "net/secret")
    registry.stats("net/secret")
    ann = scoped(registry, "net/open", "net/secret/mine")
    answer = ann.publish(one, "net/open")
    assert answer.notices == ()
    ann.publish(base.folder.parent / "one", "net/open", strict=True)
    assert told(registry.show("net/open@1").notices) == []  # it was not looked for what its publisher does not see
    opposite = changed(one, "opposite", a_B=lambda b: -b, b_B=lambda b: -b)
    registry.publish(opposite, "net/secret/mine")
    everything = {one.code for one in noticed(registry, "net/open")} | {
        one.code for one in noticed(registry, "net/secret/mine")
    }
    assert everything == {"like_sibling", "undoes_parent"}
    assert ann.show("net/open").notices == ann.show("net/secret/mine").notices == ()
    assert [event.subject for event in ann.events(kind="notice")] == []
    assert [event.subject for event in registry.events(kind="notice")] == ["net/secret"]
    doubled = changed(one, "doubled", a_B=lambda b: 2 * b, b_B=lambda b: 2 * b)
    with pytest.raises(InvalidAdapterError):
        registry.publish(doubled, "net/open", strict=True)
    ann.publish(doubled, "net/open", strict=True)


@INSIDE
def test_they_go_with_the_revision_and_with_the_other_one(registry: Registry, base: Base) -> None:
    folder = adapter(base, "one", seed=1)
    registry.publish(folder, "net/one")
    registry.publish(folder, "net/two")
    registry.stats("net/two")
    codes = [("duplicate", "net/one@1", ()), ("like_sibling", "net/one@1", ())]
    assert told(registry.show("net/two").notices) == codes[:1]  # the sibling had no sketch yet
    registry.stats("net/one")
    assert told(registry.show("net/one").notices) == [("like_sibling", "net/two@1", ())]
    registry.rename("net/two", "zwei")
    assert told(registry.show("net/zwei").notices) == codes[:1]
    registry.delete("net/one@1")
    assert registry.show("net/zwei").notices == ()
    registry.delete("net/one@1", undo=True)
    assert told(registry.show("net/zwei").notices) == codes[:1]


@INSIDE
def test_renamed_together(registry: Registry, base: Base) -> None:
    folder = adapter(base, "one", seed=1)
    registry.publish(folder, "net/top")
    for name in ("x", "y"):
        registry.publish(changed(folder, name, a_B=lambda b: 2 * b), f"net/top/{name}")
    registry.stats("net/top/x")
    registry.stats("net/top/y")
    before = told(registry.show("net/top/y").notices)
    assert ("like_sibling", "net/top/x@1", ()) in before
    registry.rename("net/top", "up")
    assert told(registry.show("net/up/y").notices) == [
        (code, None if other is None else other.replace("net/top", "net/up"), names) for code, other, names in before
    ]


@EMBEDDED
def test_siblings_are_read_in_pages(registry: Registry, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "PAGE", 2)
    one = adapter(base, "one", seed=1)
    for number in range(5):
        folder = one if number in (0, 3) else adapter(base, f"other{number}", seed=10 + number)
        registry.publish(folder, f"net/p{number}")
        registry.stats(f"net/p{number}")
    registry.publish(changed(one, "twin", a_B=lambda b: 2 * b, b_B=lambda b: 2 * b), "net/twin")
    alike = [found.reference for found in noticed(registry, "net/twin") if found.code == "like_sibling"]
    assert sorted(alike, key=str) == ["net/p0@1", "net/p3@1"]


@EMBEDDED
def test_what_is_rebased_is_no_duplicate(registry: Registry, base: Base) -> None:
    registry.publish(adapter(base, "parent", seed=1), "net/p")
    registry.publish(adapter(base, "child", seed=2), "net/p/child")
    registry.publish(adapter(base, "newer", seed=3), "net/p")
    registry.rebase("net/p/child", "net/p")
    assert "duplicate" not in {one.code for one in registry.show("net/p/child@2").notices}


@INSIDE
def test_it_is_looked_at_once(registry: Registry, base: Base) -> None:
    registry.publish(adapter(base, "large", seed=1, size=1.5), "net/large")
    for _ in range(2):
        registry.stats("net/large")
    assert [one.code for one in registry.show("net/large").notices] == ["larger_than_base"]
    (event,) = registry.events(kind="notice")
    assert (event.subject, event.detail) == ("net/large@1", {"codes": ["larger_than_base"]})


@INSIDE
def test_once_the_base_is_measured_it_is_looked_at_again(registry: Registry, base: Base) -> None:
    assert isinstance(registry, LocalRegistry)
    registry.deployment.change(lambda session: session.execute(text("DELETE FROM base_norms")))
    large = adapter(base, "large", seed=1, size=1.5)
    registry.publish(large, "net/large")
    registry.stats("net/large")
    assert registry.show("net/large").notices == ()
    with pytest.raises(UsageError, match="registry base measure net"):
        registry.publish(changed(large, "again", a_B=lambda b: 2 * b), "net/again", strict=True)
    registry.measure_base("net")
    registry.stats("net/large")
    assert [one.code for one in registry.show("net/large").notices] == ["larger_than_base"]


def test_codes() -> None:
    assert set(MEASURED_CODES) < set(NOTICE_CODES)


@EMBEDDED
def test_low_fidelity_is_told_by_an_estimate_and_refused_by_a_strict_publish(
    registry: Registry, tmp_path: Path
) -> None:
    base = plain_base(tmp_path / "half", SHAPES, dtype="BF16")
    registry.add_base("half", base.folder)
    tiny = write_adapter(tmp_path / "tiny", base, ["a", "b"], size=1e-4)
    with pytest.raises(InvalidAdapterError, match="A merge in bf16 would keep") as refused:
        registry.publish(tiny, "half/tiny", strict=["low_fidelity"])
    assert refused.value.code == "low_fidelity"
    registry.publish(tiny, "half/tiny")
    registry.stats("half/tiny")
    assert registry.show("half/tiny").notices == ()  # no row of the base is read for it
    registry.stats("half/tiny", fidelity="bf16")
    assert [one.code for one in registry.show("half/tiny").notices] == ["low_fidelity"]
    usual = write_adapter(tmp_path / "usual", base, ["a", "b"], size=0.1, seed=1)
    registry.publish(usual, "half/usual", strict=["low_fidelity"])


@EMBEDDED
def test_on_a_base_in_fp32_noise_is_what_is_told(registry: Registry, tmp_path: Path) -> None:
    """A change far below the spacing of bf16 survives on average, in the few elements that move, by far too much."""
    base = plain_base(tmp_path / "single", {"a.weight": (256, 192), "b.weight": (192, 256)})
    registry.add_base("single", base.folder)
    for seed, (name, size) in enumerate((("tiny", 1e-4), ("usual", 0.1))):
        registry.publish(write_adapter(tmp_path / name, base, ["a", "b"], size=size, seed=seed), f"single/{name}")
        found = registry.stats(f"single/{name}", fidelity="bf16").fidelity
        assert found is not None
        assert found.relative_error is not None
        told = registry.show(f"single/{name}").notices
        assert [one.code for one in told] == ["low_fidelity"] * (name == "tiny")
        if told:
            assert told[0].value == found.relative_error.value > 2
            assert "times as much rounding noise as there is change: merge with --dtype fp32" in told[0].text
