"""Remaking a base model's target table, if this version reads the model better than the version that added it.

A table never changes by itself, since the digests of plans and the commit ids of all paths below depend on it. A new
table is accepted only if every revision published below means the same under both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from sqlalchemy.orm import Session

from registry.catalogue.changes import materialise
from registry.catalogue.changes import new_base as rows_of
from registry.catalogue.changes.new_base import Below, NewTable
from registry.catalogue.store import materialisations
from registry.catalogue.tree import bases as base_rows
from registry.catalogue.tree import revisions as revision_rows
from registry.catalogue.tree.bases import BaseRow
from registry.digest import StoredFile, canonical_json
from registry.errors import ConflictError, IntegrityError, RegistryError, UnavailableError, UsageError
from registry.files.header import Header, TensorEntry, read_header, read_model_header
from registry.files.source import read_range
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EXACT, EXACT_WEIGHTS, form_of
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import Retabled
from registry.schemas.requests import RetableRequest
from registry.services.artifacts.load import load_path
from registry.services.bases.add import understood
from registry.services.bases.norms import not_finite_notices
from registry.services.deployment import Deployment
from registry.services.intake.intake import Intake, retry_collected
from registry.tensors.checkpoint.adapter import Checkpoint
from registry.tensors.checkpoint.reading import parse_config, read_checkpoint
from registry.tensors.lineage.inputs import table_on
from registry.tensors.lineage.paths import PathBase, read_blob, read_document, target_table
from registry.tensors.path.programs import BoundLink, path_programs
from registry.tensors.table.declaration import guesses
from registry.tensors.table.targets import Target, TargetKind, TargetTable
from registry.tensors.table.ties import parted_by_files
from registry.transfer.index import plain_of
from registry.transfer.model_files import CheckedModel, check_model, list_model

_TRIES: Final = 3
_UNTOLD: Final = frozenset({"source", "notices"})
"""How a table was made, which is not compared: another version of transformers alone is no change."""


class _MeanwhileError(UnavailableError):
    """Something below was published or deleted, or the table was replaced, while it was remade (``busy``)."""


def retable(deployment: Deployment, request: RetableRequest, progress: Progress) -> Retabled:
    """Remake the target table of a base model; see `registry.operations.registry.Registry.retable`.

    Raises:
        NotFoundError: no base model has this name.
        UsageError: the name is the path of an adapter.
        InvalidBaseError: as `registry.services.bases.add.add_base`, for the stored files.
        ConflictError: ``retable_refused``, a revision below would change its meaning or become unreadable.
        UnavailableError: ``busy``, the tree below changed meanwhile, in each of several tries.
    """
    path = Path.parse(name := request.base)
    if not path.is_base:
        raise UsageError(f"{name} is the path of an adapter: only base models have a target table, here {path.base}.")
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_MeanwhileError):
            return retry_collected(lambda: _retable(deployment, name, progress))
    return retry_collected(lambda: _retable(deployment, name, progress))


def _retable(deployment: Deployment, name: str, progress: Progress) -> Retabled:
    with deployment.read() as session:
        found = base_rows.get(session, name)
        rows = rows_of.all_below(session, found.id)
    base = load_path(deployment, Reference(Path.parse(name))).base
    progress.begin(f"Rebuilding the target table of {name}", len(rows) + 1)
    old, new = target_table(deployment, base), _made(deployment, base)
    progress.advance(1)
    if _facts(old) == _facts(new):
        with deployment.read() as session:
            summary = base_rows.summary(session, name)
        return Retabled(base=summary, previous=summary.table_digest, changed=False)
    _Revisions(deployment, rows, base, old, new).check(progress)
    with Intake(deployment, progress) as intake:
        stored = intake.put(canonical_json(new.to_document()))
        notices = (*new.notices, *guesses(new), *not_finite_notices(read_document(deployment, base.index)))
        table = NewTable(new.digest, stored.digest, new.source, new.architecture, notices)
        return _make_visible(deployment, intake, found, table, rows, _changes(old, new))


def _made(deployment: Deployment, base: PathBase) -> TargetTable:
    """The table that adding the base model would make now, from its stored files."""
    index = read_document(deployment, base.index)
    table = understood(replace(_model(deployment, base), plain=plain_of(index)))
    return parted_by_files(table, {name: tensor["digest"] for name, tensor in index["tensors"].items()})


def _model(deployment: Deployment, base: PathBase) -> CheckedModel:
    files = {file.path: file for file in base.files}

    def document(path: str) -> bytes | None:
        return read_blob(deployment, files[path]) if path in files else None

    def header(path: str) -> Header:
        with deployment.open_blob(files[path]) as source:
            return read_model_header(source, path, error=IntegrityError)

    def tensor(path: str, entry: TensorEntry) -> bytes:
        with deployment.open_blob(files[path]) as source:
            return bytes(read_range(source, entry.start, entry.stop))

    return check_model(list_model(base.name, files, document), header, tensor)


def _facts(table: TargetTable) -> dict[str, Any]:
    return {key: fact for key, fact in table.to_document().items() if key not in _UNTOLD}


def _changes(old: TargetTable, new: TargetTable) -> tuple[str, ...]:
    """The differences for the user, one line each."""
    before, after = _facts(old), _facts(new)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        one, two = before.get(key), after.get(key)
        if one == two:
            continue
        if isinstance(one or {}, dict) and isinstance(two or {}, dict):
            names = [name for name in {**(one or {}), **(two or {})} if (one or {}).get(name) != (two or {}).get(name)]
            lines.append(f"{key}: {len(names)} changed" + (f" (for example {names[0]})" if names else ""))
        else:
            lines.append(f"{key}: {one} is {two} now")
    return tuple(lines)


@dataclass
class _Revisions:
    """All revisions below a base model, read with the old and the new table."""

    deployment: Deployment
    rows: tuple[Below, ...]
    base: PathBase
    old: TargetTable
    new: TargetTable

    def __post_init__(self) -> None:
        self._by_id = {row.id: row for row in self.rows}
        self._read = lru_cache(maxsize=64)(self._read_link)
        self._is_exact = lru_cache(maxsize=None)(self._form_is_exact)

    def check(self, progress: Progress) -> None:
        """Check that every revision means the same under both tables; those unreadable under the old one don't count.

        Raises:
            ConflictError: ``retable_refused``, naming the revision.
        """
        for row in self.rows:
            before, after = self._meaning(row, self.old), self._meaning(row, self.new)
            if not isinstance(before, RegistryError) and before != after:
                why = (
                    f"could not be used: {after}"
                    if isinstance(after, RegistryError)
                    else "would stand for other weights"
                )
                raise ConflictError(
                    f"The target table of {self.base.name} was not changed: with the rebuilt one, {row.reference} "
                    f"{why.removesuffix('.')}. Add the base model under another name for adapters trained from now on.",
                    code="retable_refused",
                )
            progress.advance(1)

    def _meaning(self, row: Below, table: TargetTable) -> Mapping[str, object] | RegistryError:
        try:
            lineage = self._lineage(row)
            exact = next((at for at, key in reversed(list(enumerate(lineage))) if self._is_exact(key)), None)
            if exact is not None and exact == len(lineage) - 1:
                return {}  # it replaces tensors by their names in the files, independent of the table
            above = None if exact is None else lineage[exact]
            links = [
                BoundLink(*self._read(one, above, table is self.new))
                for one in lineage[0 if exact is None else exact + 1 :]
            ]
            path_programs(links, table if above is None else self._on(above, table))
        except _MeanwhileError:
            raise
        except RegistryError as problem:
            return problem
        return _described(links[-1].checkpoint)

    def _lineage(self, row: Below) -> list[int]:
        found = [row.id]
        while (parent := self._by_id[found[-1]].parent_id) is not None:
            found.append(parent)
        return found[::-1]

    def _files(self, revision_id: int) -> dict[str, StoredFile]:
        with self.deployment.read_everything() as session:
            files = {file.path: file for file in revision_rows.files(session, revision_id)}
        if not files:
            raise _MeanwhileError(
                "A deleted revision was collected in the meantime: run the command again.", code="busy"
            )
        return files

    def _form_is_exact(self, revision_id: int) -> bool:
        return form_of(self._files(revision_id)) is EXACT

    def _on(self, exact: int, table: TargetTable) -> TargetTable:
        """The table of the model that an exact revision is."""
        return table_on(self.deployment, self.base, self._files(exact)[EXACT_WEIGHTS], table)

    def _read_link(self, revision_id: int, exact: int | None, anew: bool) -> tuple[Checkpoint, Any]:
        files = self._files(revision_id)
        table = self.new if anew else self.old
        config = parse_config(read_blob(self.deployment, files[ADAPTER_CONFIG]))
        # only the header is needed: no tensor is read, so the closed source does no harm
        with self.deployment.open_blob(files[ADAPTER_WEIGHTS]) as source:
            entries = read_header(source, what=ADAPTER_WEIGHTS, error=IntegrityError).entries
        return read_checkpoint(config, entries, table if exact is None else self._on(exact, table)), source


def _described(checkpoint: Checkpoint) -> Mapping[str, object]:
    """Which tensors of an adapter map to which targets, as far as that depends on the table."""
    found: dict[str, object] = {
        f"pair {name}": (_place(pair.target), pair.fused and pair.fused.name) for name, pair in checkpoint.pairs.items()
    }
    found |= {f"rows {name}": _place(rows.target) for name, rows in checkpoint.tokens.items()}
    found |= {f"value {name}": value.entry.name for name, value in checkpoint.values.items()}
    found |= {f"factors {name}": _place(one.target) for name, one in checkpoint.diagonals.items()}
    found |= {f"added {name}": value.entry.name for name, value in checkpoint.added.items()}
    return found


def _place(target: Target) -> tuple[object, ...]:
    # a convolution whose pair can be read at all has neither groups nor dilation, whether the table says so or not
    shape = () if target.kind is TargetKind.CONV else sorted(map(str, target.geometry.items()))
    return (target.module, target.kind, target.tensor, target.shape, target.runs, *shape)


def _make_visible(
    deployment: Deployment,
    intake: Intake,
    found: BaseRow,
    table: NewTable,
    rows: tuple[Below, ...],
    changes: tuple[str, ...],
) -> Retabled:
    principal = deployment.principal

    def work(session: Session) -> Retabled:
        if not rows_of.retable(session, found, table, principal):
            raise _MeanwhileError(
                f"The target table of {found.name} was rebuilt by another process: run the command again.", code="busy"
            )
        if rows_of.all_below(session, found.id) != rows:
            raise _MeanwhileError(
                f"Something was published or deleted at {found.name} while its target table was being rebuilt: run "
                "the command again.",
                code="busy",
            )
        # their plans name the old table, so no request can match them any more
        kept = materialisations.listing(session, at=Path.parse(found.name))
        materialise.drop(session, kept, principal)
        return Retabled(
            base=base_rows.summary(session, found.name),
            previous=found.table_digest,
            changed=True,
            changes=changes,
            revisions=sum(not row.deleted for row in rows),
            materialisations=tuple(f"{one.reference} as {one.kind}" for one in kept),
        )

    return intake.change(work)
