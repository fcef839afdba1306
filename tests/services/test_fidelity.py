"""Estimates of fidelity by reference: of a link for notices, of paths in ``stats``, within scopes."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.errors import NotFoundError, UsageError
from registry.reference import Path as TreePath
from registry.rights import Principal, Rights
from registry.services.engine_checks import link_fidelity
from registry.services.local import LocalRegistry
from tests.kit import plain_base, write_adapter


@pytest.fixture
def local(tmp_path: Path) -> LocalRegistry:
    """net/one@1, which bf16 keeps, and net/one/tiny@1, which it loses."""
    registry = LocalRegistry.open(tmp_path / "registry", create=True)
    base = plain_base(tmp_path / "base", {"a.weight": (64, 48)}, dtype="BF16")
    registry.add_base("net", base.folder)
    registry.publish(write_adapter(tmp_path / "one", base, ["a"], size=0.02), "net/one")
    registry.publish(write_adapter(tmp_path / "tiny", base, ["a"], size=1e-5, seed=2), "net/one/tiny", parent="net/one")
    return registry


def test_the_survival_of_a_link_is_its_own(local: LocalRegistry) -> None:
    links = [link_fidelity(local.deployment, ref) for ref in ("net/one", "net/one/tiny")]
    one = links[0].surviving_share
    assert one is not None
    assert one.low == one.value == one.high  # all rows fit
    assert one.value == pytest.approx(1, abs=0.05)
    found = local.stats("net/one/tiny", fidelity="bf16").fidelity
    assert found is not None
    assert [link.reference for link in found.links] == ["net/one@1", "net/one/tiny@1"]
    assert list(found.links) == links
    assert link_fidelity(local.deployment, "net/one/tiny", "fp32") != links[1]
    with pytest.raises(NotFoundError):
        link_fidelity(local.deployment, "net/none")
    with pytest.raises(UsageError, match="base model"):
        link_fidelity(local.deployment, "net")


def test_estimates_are_what_a_merge_measures(local: LocalRegistry) -> None:
    found = local.stats("net/one", fidelity="bf16").fidelity
    measured = local.fetch("net/one", kind="merged", fidelity="full").fidelity
    assert found is not None
    assert measured is not None
    for name in ("relative_error", "unchanged_share", "surviving_share"):
        assert getattr(found, name).value == pytest.approx(getattr(measured, name), rel=1e-2), name
    assert (found.dtype, found.read, found.left_out) == ("bf16", 64 * 48 * 2, ())


def test_since_an_ancestor_the_change_is_against_it(local: LocalRegistry) -> None:
    since = local.stats("net/one/tiny", since="net/one", fidelity="bf16").fidelity
    whole = local.stats("net/one/tiny", fidelity="bf16").fidelity
    assert since is not None
    assert whole is not None
    assert since.links == whole.links[1:]
    assert since.surviving_share == since.links[0].surviving_share != whole.surviving_share
    assert local.stats("net/one").fidelity is None


def test_links_out_of_scope_have_no_estimate_of_their_own(local: LocalRegistry) -> None:
    whole = local.stats("net/one/tiny", fidelity="bf16").fidelity
    assert whole is not None
    scoped = local.with_principal(Principal("ann", Rights("reader", (TreePath.parse("net/one/tiny"),))))
    seen = scoped.stats("net/one/tiny", fidelity="bf16").fidelity
    assert seen is not None
    assert seen == whole.model_copy(update={"links": whole.links[1:]})
