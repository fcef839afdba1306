"""A plan of an import: what a heap of folders becomes in a registry. Neither the folders nor the registry change.

Its entries describe what was found out about each folder, in words for the people who read and edit it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FsPath
from typing import Final

from registry import figures
from registry.errors import RegistryError
from registry.folders.archives import Opened
from registry.folders.heaps import Found, Heap, walk_heap
from registry.folders.hub.repository import hub_heap, organisation_of
from registry.progress import Progress
from registry.reference import Path, Reference
from registry.schemas import FolderCompared
from registry.schemas.publishing import ImportDocument, ImportEntry, NamedBase, NearFolder
from registry.services.importing.names import wanted_name
from registry.services.importing.placed import Fitted, Landed, MaybeFull, Measured, Settled, Side, There
from registry.services.importing.placing import Settling, name_of
from registry.services.importing.reading import Adapter, Contents, Model, order_of, read_heap
from registry.services.importing.trainer_notes import notes_of

_LOST_LINK = "If an adapter was merged into it that is not here, bring that too and plan again."
_SETTLE_MODEL = (
    f"{_LOST_LINK} If it was trained as a whole, set action to full, and parent to what it was trained from; or action "
    "to add, for a base model of its own."
)
_SETTLE_FULL = "Set action to full for a full fine-tune of its parent, or to add for a base model of its own."
_OTHER_FULL = "Give it a rank or a max_error to have an adapter made of it, or set action to add or skip."
_ANSWER = "Answer the question at the top about that name: it settles all adapters that say it."
_SETTLE_ADAPTER = "If you know it, set parent to that, and action to publish: it is your word then."


@dataclass(frozen=True)
class Writing:
    """All that entries are made of."""

    heap: Heap
    contents: Contents
    settled: Settled
    there: There

    def entries(self) -> Iterator[ImportEntry]:
        """What is brought in, parents first; then what is undecided, what is refused, and what stays."""
        done = self.settled
        models = [model for model in self.contents.models.values() if model.digest and not model.with_adapter]
        made = [*map(self._model, models), *map(self._adapter, (*self.contents.adapters, *done.kept))]
        made += [self._refused(one, problem) for one, problem in self.contents.refused]
        made += [
            ImportEntry(
                folder=one.place,
                what=one.what,
                action="skip" if one.code is None else "refused",
                reason=one.why,
                code=one.code,
            )
            for one in self.heap.left
            if all(one.place != kept.place for kept in done.kept)
        ]
        order = {"add": 0, "publish": 1, "full": 1, "undecided": 2, "refused": 3, "skip": 4}
        depth = {place: len(one.path.names) for place, one in done.landed.items()}
        depth |= {place: len(one.path.names) for place, one in done.full.items()}
        yield from sorted(made, key=lambda one: (order[one.action], depth.get(one.folder, 0), one.folder))

    @cached_property
    def questions(self) -> tuple[NamedBase, ...]:
        """Names of repositories that undecided adapters have for base models which are here under other names."""
        asked: dict[str, list[Adapter]] = {}
        for one in self.contents.adapters:
            if one.place in self.settled.doubts and (name := one.repo or one.said_base) is not None:
                asked.setdefault(name, []).append(one)
        bases = {*self.settled.bases.values(), *self.there.bases.values()}
        found = []
        for repo_id, adapters in sorted(asked.items()):
            near = [{name for name, _ in self.settled.doubts[one.place].near} for one in adapters]
            fits = [{self._called(name) for name in names & bases} for names in near]
            if all(fits):
                candidates, folders = tuple(sorted(set.union(*fits))), tuple(one.place for one in adapters)
                found.append(NamedBase(repo_id=repo_id, candidates=candidates, folders=folders))
        return tuple(found)

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        """What a plan calls a base model or a path of the private registry: "./place", or as the registry has it."""
        known = set(self.there.bases.values())
        owners = {name: name if name in known else key for key, name in self.settled.bases.items()}
        owners |= {one.private: key for key, one in self.settled.full.items() if one.private is not None}
        for place, landed in self.settled.landed.items():
            owners[landed.answer.revision.path] = landed.there or place
        return owners

    def _called(self, reference: str) -> str:
        """A reference of the private registry as a plan calls it; "./place" as it is."""
        if reference.startswith((".", "hf:")):
            return reference
        path = str(Reference.parse(reference).path)
        return self._owners.get(path, reference)

    def _model(self, model: Model) -> ImportEntry:
        done, key = self.settled, model.key
        if key in done.full or isinstance(done.maybe_full.get(key), MaybeFull):
            return self._full(model)
        what, action, reason, name, code = "model", "undecided", None, None, None
        found = done.compared.get(key)
        near: tuple[NearFolder, ...] = ()
        if (same := self.contents.same_weights.get(key)) is not None:
            action, reason = "skip", f"it has the same weights as {same}"
        elif key in done.refused:
            action, reason, code = "refused", str(done.refused[key]), done.refused[key].code
        elif key in done.bases:
            name = done.bases[key]
            has = name in self.there.bases.values()
            what, action = "base model", "skip" if has else "add"
            reason = f"the registry has these weights as {name}" if has else None
        elif found is not None and found.is_equal:
            what, action = "merged model", "skip"
            reason = f"it is {self._called(found.fitting[0].reference)}: {found.proof}"
        else:
            name, near = wanted_name(key, model.repo, dots=True), self._near_to(key)
            reason = f"Nothing here makes these weights{_reason(found)}. {_SETTLE_MODEL}"
            order = next((one.order for one in done.compared_with(key) if one.order), ())
            problem = done.maybe_full.get(key)
            if order:
                links = " then ".join(map(self._called, order))
                reason = f"It was made by merging {links}, and no path here has that order. {_SETTLE_MODEL}"
            elif isinstance(problem, RegistryError):
                reason, code = (
                    f"It can't be kept exactly below what it is near: {problem} {_SETTLE_MODEL}",
                    problem.code,
                )
        return ImportEntry.model_validate(
            {
                "folder": key, "what": what, "action": action, "name": name, "reason": reason, "code": code,
                "candidates": near, "digest": model.digest, "files": model.files,
            }
        )  # fmt: skip

    def _full(self, model: Model) -> ImportEntry:
        """A model that is a full fine-tune, or may be one."""
        done, key = self.settled, model.key
        full = done.full.get(key)
        found = full or done.maybe_full[key]
        assert not isinstance(found, RegistryError), "what can't be one is no entry of this kind"
        size, notes = found.size, notes_of(model.folder, model.run)
        beside = (
            f"{size.tensors} of {size.of} tensors differ from {self._called(size.base)} "
            f"({100 * size.distance:.3g} % of its norm), and nothing here makes them"
        )
        name = wanted_name(key, model.repo, dots=False) if full is None else full.path.name
        if isinstance(found, MaybeFull):
            reason = f"{beside}; {found.unclear}. {_SETTLE_FULL} {_LOST_LINK}"
        else:
            reason = f"{beside}: kept exactly, it takes about {figures.size(size.stored)}. {_OTHER_FULL} {_LOST_LINK}"
        return ImportEntry(
            folder=key,
            what="model" if full is None else "full fine-tune",
            action="undecided" if full is None else "full",
            name=name,
            parent=self._called(found.parent),
            reason=reason,
            candidates=tuple(one for one in self._near_to(key) if one.parent != self._called(size.base)),
            takes=size.model_copy(update={"base": self._called(size.base)}),
            metrics=dict(notes.metrics),
            annotations=dict(notes.annotations),
            digest=model.digest,
            files=model.files,
        )

    def _near_to(self, key: str) -> tuple[NearFolder, ...]:
        """What a model is near, in both registries."""
        found = {one.reference: one.distance for each in self.settled.compared_with(key) for one in each.near}
        return tuple(
            NearFolder(parent=self._called(reference), why=f"{100 * distance:.3g} % of its norm away")
            for reference, distance in sorted(found.items(), key=lambda one: one[1])
        )

    def _adapter(self, one: Adapter) -> ImportEntry:
        done = self.settled
        run = None if one.found.run is None else one.found.folder.parent
        notes = notes_of(one.found.folder, run)
        known = {
            "folder": one.place, "what": "adapter", "trained_on": one.model or one.named or one.said_base,
            "metrics": dict(notes.metrics), "annotations": {**one.made.request.annotations, **notes.annotations},
            "files": one.files,
        }  # fmt: skip
        if (same := self.contents.same.get(one.place)) is not None:
            why = f"it has the same files as {same}"
            return ImportEntry.model_validate({**known, "action": "skip", "reason": why})
        if (landed := done.landed.get(one.place)) is not None:
            return ImportEntry.model_validate({**known, **self._where(landed)})
        if (fitted := done.fitted.get(one.place)) is not None:
            return ImportEntry.model_validate({**known, **self._by_fit(one, fitted)})
        if (problem := done.refused.get(one.place)) is not None:
            said = {"action": "refused", "reason": str(problem), "code": problem.code}
            return ImportEntry.model_validate({**known, **said})
        doubt = done.doubts[one.place]
        near = [NearFolder(parent=self._called(reference), why=why) for reference, why in doubt.near]
        asked = any(one.place in question.folders for question in self.questions)
        settle = _ANSWER if asked else _SETTLE_ADAPTER
        unsaid: dict[str, object] = {
            "action": "undecided", "name": name_of(one), "reason": f"{doubt.problem} {settle}",
            "code": doubt.problem.code, "candidates": near,
        }  # fmt: skip
        return ImportEntry.model_validate({**known, **unsaid})

    def _by_fit(self, one: Adapter, fitted: Fitted) -> dict[str, object]:
        there = self.there.revisions.get(fitted.digest)
        if there is not None:
            return {"action": "skip", "reason": f"the registry has it as {there}", "digest": fitted.digest}
        said = f", and its metadata names {one.said_base}" if one.said_base else ""
        return {
            "action": "publish",
            "name": fitted.path.name,
            "parent": self._called(fitted.path.base),
            "reason": f"it fits no other base model here{said}: nothing proves that it was trained on this one",
            "parent_known_by": "given",
            "digest": fitted.digest,
        }

    def _where(self, landed: Landed) -> dict[str, object]:
        revision = landed.answer.revision
        if landed.there is not None:
            return {"action": "skip", "reason": f"the registry has it as {landed.there}", "digest": revision.digest}
        if landed.merged is not None:
            model, proof = landed.merged
            why = f"{model} is {self._called(revision.parent)} with this adapter merged into it: {proof}"
            shown: dict[str, object] = {"reason": why, "parent_known_by": "assumed"}
            return {"action": "publish", "name": Path.parse(revision.path).name, "digest": revision.digest,
                    "parent": self._called(revision.parent), **shown}  # fmt: skip
        return {
            "action": "publish",
            "name": Path.parse(revision.path).name,
            "parent": self._called(revision.parent),
            "proof": self._proof(landed),
            "parent_known_by": revision.parent_known_by,
            "digest": None if self._is_on_full(landed) else revision.digest,
        }

    def _is_on_full(self, landed: Landed) -> bool:
        """Whether it is below a full fine-tune, so that the private registry has another lineage for it."""
        return Path.parse(landed.answer.revision.path).base in {one.private for one in self.settled.full.values()}

    def _proof(self, landed: Landed) -> str:
        """Why it is the parent, which the plan calls otherwise than the private registry."""
        parent, why = landed.answer.revision.parent, landed.answer.parent_reason
        if "@" in parent:
            return why.replace(parent, self._called(parent))
        return why.replace(f"are those of {parent}:", f"are those of {self._called(parent)}:")

    def _refused(self, one: Found, problem: RegistryError) -> ImportEntry:
        return ImportEntry(
            folder=one.place, what=one.kind.what, action="refused", reason=str(problem), code=problem.code
        )


def _reason(found: object) -> str:
    if isinstance(found, FolderCompared) and found.is_near:
        return f" ({found.proof}: {found.fitting[0].reference})"
    reason = getattr(found, "reason", None)
    return f" (it was not compared: {reason})" if reason else ""


_NO_TIMES: Final = (
    "All files here were written in one go, as by a copy or a clone that kept no times. So nothing tells whether a "
    "folder was overwritten after an adapter had been trained on it: parents that a comparison shows are stated "
    "(compared_untimed), not proven. Copy the heap with its times (cp -a, rsync -t) to have them proven."
)
_MOST_ORDERS: Final = 4
"""Other models that are tried as the first base model, if one that no path explains is near another one."""


def plan_import(
    source: str,
    opened: Opened,
    target: Side,
    private: Callable[[], AbstractContextManager[Side]],
    progress: Progress,
) -> ImportDocument:
    """Plan what of a heap can be imported, where, with which proof, and what can't and why.

    Args:
        source: the folder or archive that is searched, or ``hf:ORG``.
        opened: unpacks archives, and reads pickles.
        target: the registry that is imported into, which is only read.
        private: opens an empty registry that is thrown away, in which everything is tried.
        progress: of the search.

    Raises:
        NotFoundError: the folder does not exist, or has no repository.
        UnavailableError: the registry can't be reached.
    """
    progress.begin("Looking through the folders", 0)
    organisation = organisation_of(source)
    heap = walk_heap(FsPath(source).absolute(), opened) if organisation is None else hub_heap(organisation, progress)
    contents = read_heap(heap, opened, progress)
    there = There.of(target.registry)
    settled = _settle(contents, target, there, private, progress)
    writing = Writing(heap, contents, settled, there)
    return ImportDocument(
        registry=target.registry.url,
        source=source if heap.root is None else str(heap.root),
        notices=(_NO_TIMES,) if contents.around is not None and contents.around.of_one_moment else (),
        questions=writing.questions,
        entries=tuple(writing.entries()),
    )


def _settle(
    contents: Contents,
    target: Side,
    there: There,
    private: Callable[[], AbstractContextManager[Side]],
    progress: Progress,
) -> Settled:
    """Settle by the likeliest order; if that leaves a model near one that was taken for a base, also from that model.

    The one that was taken may be made from the other. What explains most is right: every explanation is a proof.
    """
    likely, measured = order_of(contents.models, contents.adapters), Measured()

    def tried(some: Contents, order: list[str], roots: int | None = None) -> Settled:
        with private() as side:
            return Settling(some, side, target, there, measured, progress).run(order, roots)

    best, asked = tried(contents, likely), set[str]()
    for _ in range(_MOST_ORDERS):
        other = next((one for one in _others(contents, there, best) if one.key not in asked), None)
        if other is None:
            break
        asked.add(other.key)
        above = _above(contents, best, other.taken)
        if not other.explains and not _may_be_merged(above, other):
            continue
        if other.explains or other.taken not in tried(*_first(above, other.key), 1).pending:
            best = max(best, tried(*_first(contents, other.key, likely)), key=lambda one: one.quality)
    return best


@dataclass(frozen=True)
class _Other:
    """A model that may be the base model instead of the one that was taken for it."""

    key: str
    taken: str
    explains: bool  # a trainer left its files with the other alone


def _others(contents: Contents, there: There, found: Settled) -> Iterator[_Other]:
    """Models near one that was only taken for a base model: adapters were trained on them, or that one was trained."""
    taken = {name: key for key, name in found.bases.items() if contents.models[key].repo is None}
    named = {one.model for one in contents.adapters}
    merged = any(one.repo is not None and one.place in found.doubts for one in contents.adapters)
    for key in found.pending:
        compared, model = found.compared.get(key), contents.models[key]
        name = "" if compared is None or compared.nearest is None else compared.nearest.partition("/")[0]
        if model.digest is None or name not in taken.keys() - there.bases.values():
            continue
        explains = contents.models[taken[name]].trained and not model.trained
        if explains or merged or key in named:
            yield _Other(key, taken[name], explains)


def _may_be_merged(above: Contents, other: _Other) -> bool:
    """Whether a model may be another one with adapters: it has that one's norms and biases, as merging leaves them.

    A training of the whole model moves nearly all of them. What is of another dtype shows nothing.
    """
    if not all(one.is_of_pairs for one in above.adapters):
        return True
    one, there = above.models[other.taken].vectors, above.models[other.key].vectors
    same = [one[name] == there[name] for name in one if name in there and one[name][0] == there[name][0]]
    return 2 * sum(same) >= len(same)


def _first(contents: Contents, key: str, order: Iterable[str] = ()) -> tuple[Contents, list[str]]:
    """A heap, and an order of its models in which one is the first."""
    return contents, [key, *(one for one in order or contents.models if one != key)]


def _above(contents: Contents, found: Settled, taken: str) -> Contents:
    """What may be above the model that was taken for a base model, if that is none: what nothing has explained."""
    models = {key: contents.models[key] for key in (*found.pending, taken)}
    on_these = models.keys() - {taken}
    adapters = [one for one in contents.adapters if one.model in on_these or one.repo is not None]
    return Contents(models, adapters, contents.spare, around=contents.around)
