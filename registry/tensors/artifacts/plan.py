"""Plans: what will be computed, as digests; and the rendering, which names the bytes that come out.

The document of a plan knows no registry, no path and no tag, so it means the same on every machine. A rendering adds
what the bytes also depend on: the version of the artifact format (header and config writers), the numerics fingerprint,
and what README.md calls the base model.

The numerics fingerprint names the arithmetic of this machine. The same product can round differently on another make of
CPU or another build of torch. A small fixed probe goes through the very kernels that artifacts use; its digest is part
of every rendering, so that bytes made by different arithmetic never pass for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Final

from registry.digest import document_digest
from registry.schemas import ArtifactKind, WrittenDtype
from registry.schemas.artifacts import KINDS, FourBits
from registry.schemas.form import Layout
from registry.schemas.receipt import rendering_digest
from registry.tensors.arithmetic.threads import run_alone


def known_fingerprint() -> str | None:
    """The same if this process has probed it; None: it has not, and this does not make it."""
    return fingerprint() if fingerprint.cache_info().currsize else None


@cache
def fingerprint() -> str:
    """16 hex digits that name this machine's arithmetic; probes it once a process, with torch."""
    # Not before: what is only copied has plans too, and needs no torch.
    from registry.tensors.artifacts.numerics import digest_of_arithmetic

    return run_alone(digest_of_arithmetic)


PLAN_FORMAT: Final = 1
ARTIFACT_FORMAT: Final = 4
"""2: a composed adapter names a commit of its base; magnitudes end in ``.weight``. 3: factors in float64 that stay
whole are scaled once, and the error of a truncated DoRA in 16 bits has that of its magnitude. 4: a README.md that is
made of the lineage."""


@dataclass(frozen=True)
class PlanLink:
    """One revision of the path, root first."""

    revision: str  # digest
    coefficient: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What will be computed."""

    kind: ArtifactKind
    base: str  # digest of the base's weights
    base_files: str  # digest of the list of the base's files: how the weights lie in shards, and all other files
    table: str  # digest of the target table
    links: tuple[PlanLink, ...]
    since: str | None = None  # digest of the revision on whose merged weights the links go; None: the base
    dtype: WrittenDtype | None = None
    ranks: Mapping[str, int] | None = None  # what each module of a truncated adapter is cut to
    uniform: bool = False  # filled with zeros to one rank
    base_repo: str | None = None  # what a composed adapter calls the model it belongs on
    onto: FourBits | None = None  # how the base is quantised before the links go on it
    layout: Layout | None = None  # whose names and files a composed LoRA of an image model has
    dense_as_diff: bool = False  # with the whole difference of what is no low-rank product
    plain: bool = False  # with the nearest plain pair of what is rescaled
    base_model: str | None = None
    """What README.md calls the model: no part of what is meant, but of the bytes. None where no README.md is made."""

    def document(self) -> dict[str, Any]:
        """The plan as a JSON document."""
        return {
            "format": PLAN_FORMAT,
            "kind": self.kind,
            "base": self.base,
            "base_files": self.base_files,
            "table": self.table,
            "links": [{"revision": link.revision, "coefficient": link.coefficient} for link in self.links],
            "since": self.since,
            "dtype": self.dtype,
            "ranks": None if self.ranks is None else dict(self.ranks),
            "uniform": self.uniform,
            "base_repo": self.base_repo,
            **({} if self.onto is None else {"onto": self.onto.model_dump(mode="json")}),
            **({} if self.layout is None else {"layout": self.layout}),
            **({"dense_as_diff": True} if self.dense_as_diff else {}),
            **({"plain": True} if self.plain else {}),
        }

    @cached_property
    def digest(self) -> str:
        """Identifies what is meant, on every machine."""
        return document_digest(self.document())

    @property
    def numerics(self) -> str | None:
        """The fingerprint that the bytes depend on; None where bytes are only copied."""
        return None if KINDS[self.kind].is_verbatim else fingerprint()

    @cached_property
    def rendering(self) -> str:
        """Names the bytes."""
        return rendering_of(self, self.numerics)


def rendering_of(plan: Plan, numerics: str | None) -> str:
    """The rendering of a plan under an arithmetic."""
    return rendering_digest(plan.digest, ARTIFACT_FORMAT, numerics, plan.base_model)
