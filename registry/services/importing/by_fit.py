"""LoRA files of image models, which name no folder and prove nothing: they are placed by the base models that they fit.

A file that fits one base model is planned below it, for whoever reads the plan to confirm. One that fits several is
asked about, and one that fits none is refused with the error of the base model that it is nearest to. Nothing is
published for that, nor copied: each registry checks the names and shapes against its own base models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.progress import SILENT
from registry.reference import Path as TreePath
from registry.services.importing.names import free_path
from registry.services.importing.placed import Doubt, Fitted, Settled, Side, There
from registry.services.importing.reading import Adapter

_FAR: Final = {"shape_mismatch": 1, "unknown_target": 2}
"""How far what gives these errors is from a base model; all others are about the file itself."""


def place_by_fit(
    one: Adapter, name: str, private: Side, target: Side, there: There, done: Settled, taken: Collection[TreePath]
) -> None:
    """Place a LoRA file below the only base model that it fits; else record why not, and what would settle it.

    Args:
        one: the file.
        name: that it suggests for the adapter.
        private: the registry in which the heap's own base models are.
        target: the one that is imported into.
        there: what that has.
        done: where all else belongs; the outcome is added.
        taken: paths that are in use.

    Raises:
        UnavailableError: a registry can't be reached.
    """
    fitting: dict[str, Fitted] = {}
    problems: list[RegistryError] = []
    own = set(done.bases.values())
    for base in sorted({*own, *there.bases.values()}):
        try:
            path = free_path(TreePath(base), name, taken)
            fitting[base] = _planned(one, path, private if base in own else target)
        except UnavailableError:
            raise
        except RegistryError as problem:
            problems.append(problem)
    if len(fitting) == 1:
        done.fitted[one.place] = next(iter(fitting.values()))
    elif fitting:
        said = f"; its metadata names {one.said_base}" if one.said_base else ", and its metadata names none"
        why = UsageError(f"It fits {len(fitting)} base models{said}.", code="parent_ambiguous")
        done.doubts[one.place] = Doubt(why, tuple((base, "its tensors fit this base model") for base in fitting))
    elif problems:
        done.refused[one.place] = min(problems, key=lambda problem: _FAR.get(problem.code, 0))
    else:
        why = UsageError(
            "There is no base model that it could be tried on: add one, and plan again.", code="parent_ambiguous"
        )
        done.doubts[one.place] = Doubt(why)


def _planned(one: Adapter, path: TreePath, side: Side) -> Fitted:
    made = one.made.with_request(
        path=str(path), parent=path.base, compared=None, find_parent=False, skip_parent_check=True
    )
    return Fitted(path, side.folders.plan(made, SILENT).digest)


def lora_files(waiting: Collection[Adapter]) -> Iterator[Adapter]:
    """Those of some adapters that are LoRA files without the name of a model."""
    yield from (one for one in waiting if one.is_lora_file and one.model is None and not one.named)
