"""Finds where everything in a heap belongs, by publishing it in a private registry that is thrown away.

A model of the heap is a base model, or one that some path of the private registry makes: then what was trained on it is
published below that path, which may explain the next model. So every check is that of publishing, and the comparator is
the one that searches for lost parents.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from registry.errors import RegistryError, UnavailableError, UsageError
from registry.figures import command
from registry.progress import SILENT, Part, Progress
from registry.reference import Path as TreePath
from registry.reference import Reference
from registry.schemas import FolderCompared
from registry.schemas.publishing import FullSize
from registry.services.importing.by_fit import lora_files, place_by_fit
from registry.services.importing.names import free_base, free_path, wanted_name
from registry.services.importing.placed import (
    FAR,
    Doubt,
    Full,
    FullModels,
    Landed,
    MaybeFull,
    Measured,
    Settled,
    Side,
    There,
    fits_itself,
)
from registry.services.importing.reading import Adapter, Contents
from registry.services.publishing.identify import search_trained
from registry.transfer.trained_on import UNTIMED, Beside, TrainedFolder

_LISTED: Final = 10


@dataclass
class Settling:
    """One try, with one order in which models are taken for base models."""

    contents: Contents
    private: Side
    target: Side
    there: There
    measured: Measured
    progress: Progress
    done: Settled = field(default_factory=Settled)
    _waiting: list[Adapter] = field(default_factory=list)
    _searched: dict[str, frozenset[str]] = field(default_factory=dict)  # what was searched, by key of the model
    _asked: set[str] = field(default_factory=set)  # models and adapters already looked up in the registry
    _copied: set[str] = field(default_factory=set)
    _tried: dict[str, dict[str, RegistryError | None]] = field(default_factory=dict)  # paths, by place
    _subtracted: set[frozenset[str]] = field(default_factory=set)  # base models, adapters and models compared together
    _paths: dict[TreePath, TreePath] = field(default_factory=dict)  # by private path: the one in the registry

    def run(self, order: Sequence[str], roots: int | None = None) -> Settled:
        """Settle everything.

        Args:
            order: keys of models, those first that are tried first as base models.
            roots: take at most so many for base models; None: any number.
        """
        models = [key for key in order if key not in self.contents.same_weights]
        self._waiting = list(self.contents.originals)
        for key in models:
            name = self.there.bases.get(self.contents.models[key].digest or "")
            if name is not None:
                self._add_base(key, name)
        pending = [key for key in models if key not in self.done.bases]
        while True:
            while self._goes_on(pending):
                pending = [key for key in pending if not self._fits(key)]
            root = next((key for key in pending if self._may_be_base(key)), None)
            if root is None or len(self.done.bases) == roots:
                break
            pending.remove(root)
            self._add_base(root, None)
        if roots is None:
            self._place_full(pending)
        self.done.pending = [key for key in pending if key in self.done.full or not self._fits(key)]
        for one in list(lora_files(self._waiting)):
            self._waiting.remove(one)
            place_by_fit(one, name_of(one), self.private, self.target, self.there, self.done, self._taken)
        for one in self._waiting:
            self._leave(one)
        self._look_again()
        return self.done

    def _goes_on(self, pending: Sequence[str]) -> bool:
        """Place or explain something; False: proofs achieve nothing more."""
        return (
            self._publish_ready()
            or self._explain(pending)
            or self._publish_otherwise()
            or self._ask_target(pending)
            or self._subtract(pending)
        )

    def _add_base(self, key: str, name: str | None) -> None:
        model = self.contents.models[key]
        self.progress.begin(f"Looking into {key}, a base model", 0)
        name = name or free_base(wanted_name(_said(key, model.folder), model.repo, dots=True), self._base_names)
        try:
            added = self.private.registry.add_base(name, model.folder, link=True)
        except UnavailableError:
            raise
        except RegistryError as problem:
            self.done.refused[key] = problem
            return
        self._name(name)
        self.done.bases[key] = name
        self.done.compared[key] = fits_itself(key, name, added.base.digest, None)

    def _name(self, base: str) -> None:
        """Let a base model of the private registry have the names that the other one knows it by."""
        for repo_id in sorted(self.there.repo_ids.get(base, ())):
            self.private.registry.also_known_as(base, repo_id)

    def _fits(self, key: str) -> bool:
        found = self.done.compared.get(key)
        return key in self.done.refused or (found is not None and found.is_equal)

    def _may_be_base(self, key: str) -> bool:
        """Whether a model is none that is made of another one here: it has other tensors, or is far from all."""
        model, found = self.contents.models[key], self.done.compared_with(key)
        if model.digest is None or model.with_adapter:
            return False
        if not found:  # it has other tensors than all of them, or a vocabulary that has grown
            return self.full_models.size(key) is None
        return not any(one.order for one in found) and min(one.distance for one in found) >= FAR

    def _place_full(self, pending: Sequence[str]) -> None:
        """Propose what is near a base model as full fine-tunes, nearest first, and place what stands on them."""
        left = list(pending)
        while nearest := self._nearest(left):
            key, size = nearest
            left.remove(key)
            found = self.full_models.found(key, size)
            if found.unclear is None:
                self._add_full(key, found)
                while self._goes_on(left):
                    left = [one for one in left if not self._fits(one)]
            else:
                self.done.maybe_full[key] = found
        for key in left:
            if self.done.compared_with(key) and (problem := self.full_models.problem(key)) is not None:
                self.done.maybe_full[key] = problem

    def _nearest(self, keys: Sequence[str]) -> tuple[str, FullSize] | None:
        whole = [key for key in keys if (one := self.contents.models[key]).digest and not one.with_adapter]
        unordered = [key for key in whole if not any(one.order for one in self.done.compared_with(key))]
        sizes = [(key, size) for key in unordered if (size := self.full_models.size(key)) is not None]
        return min(sizes, key=lambda one: one[1].distance, default=None)

    def _add_full(self, key: str, found: MaybeFull) -> None:
        """Give a full fine-tune its path; if adapters were trained on it, it is also a base model of its own."""
        model = self.contents.models[key]
        if found.parent in self.done.full:
            above = self.done.full[found.parent].path
        else:
            above = Reference.parse(found.parent).path
            above = self._paths.get(above, above)
        try:
            path = free_path(above, wanted_name(_said(key, model.folder), model.repo, dots=False), self._taken)
            name = None
            if any(self.contents.key(one) == key for one in self._waiting):
                name = free_base(path.name, {*self._base_names, *self.there.bases.values()})
                digest = self.private.registry.add_base(name, model.folder, link=True).base.digest
                self.done.compared[key] = fits_itself(key, name, digest, self.done.compared.get(key))
                self._paths[TreePath(name)] = path
        except UnavailableError:
            raise
        except RegistryError as problem:
            self.done.maybe_full[key] = problem
            return
        self.done.full[key] = Full(found.size, found.parent, path, name)

    @property
    def _taken(self) -> set[TreePath]:
        proposed = (*(one.path for one in self.done.full.values()), *(one.path for one in self.done.fitted.values()))
        return {*self.there.taken, *self._paths.values(), *proposed}

    @property
    def _base_names(self) -> set[str]:
        private = {one.private for one in self.done.full.values() if one.private is not None}
        return {*(path.base for path in self.there.taken), *self.done.bases.values(), *private}

    def _explain(self, pending: Sequence[str]) -> bool:
        """Search for what the models are; whether one was found."""
        here = self._candidates
        searched = [key for key in pending if self._searched.get(key) != here] if self._has_bases else []
        for number, key in enumerate(searched, 1):
            self._searched[key] = here
            self.done.compared[key] = self._search(self.private, key, f", {number} of {len(searched)}")
        return any(self._fits(key) for key in searched)

    @cached_property
    def full_models(self) -> FullModels:
        """The models that may be full fine-tunes."""
        return FullModels(self.contents, self.private, self.target, self.there, self.done, self.measured, self.progress)

    @property
    def _candidates(self) -> frozenset[str]:
        """All that a model of the heap may be: base models, and what was published on them or copied."""
        landed = (one.answer.revision.reference for one in self.done.landed.values())
        private = (one.private for one in self.done.full.values() if one.private is not None)
        return frozenset({*self.done.bases.values(), *private, *landed, *self._copied})

    @property
    def _has_bases(self) -> bool:
        return bool(self.done.bases or self._copied)

    def _search(self, side: Side, key: str, count: str = "") -> FolderCompared:
        part = Part(self.progress, f"Comparing {key}{count}")
        part.begin("by samples", 0)
        with side.port(part) as port:
            return search_trained(port, TrainedFolder(self.contents.models[key].folder, key), UNTIMED, part)

    def _ask_target(self, pending: Sequence[str]) -> bool:
        """Search among what the registry has; what explains a model is copied into the private one."""
        for key in pending if self.there.bases else ():
            if key in self._asked:
                continue
            self._asked.add(key)
            if key not in self.measured.there:
                self.measured.there[key] = self._search(self.target, key)
            found = self.measured.there[key]
            if not found.is_equal:
                self.done.there[key] = found
                continue
            try:
                for one in found.fitting:
                    self._copy(one.reference)
            except UnavailableError:
                raise
            except RegistryError as problem:  # it was retracted, or may not be read as a whole
                self.done.refused[key] = problem
                return True
            self.done.compared[key] = self._search(self.private, key)
            return self._fits(key)
        return False

    def _can_copy(self, reference: str) -> bool:
        try:
            self._copy(reference)
        except UnavailableError:
            raise
        except RegistryError:  # it was retracted, or may not be read as a whole: it proves nothing here
            return False
        return True

    def _copy(self, reference: str) -> None:
        if reference not in self._copied:
            self.target.registry.copy(reference, self.private.registry)
            self._name(Reference.parse(reference).path.base)
            self._copied.add(reference)

    def _publish_ready(self) -> bool:
        """Publish what was trained on models that are explained; returns whether anything was."""
        ready = [one for one in self._waiting if (key := self.contents.key(one)) is not None and self._fits(key)]
        self._waiting = [one for one in self._waiting if one not in ready]
        for number, one in enumerate(ready, 1):
            self.progress.begin(f"Placing {one.place}, {number} of {len(ready)}", 0)
            key = self.contents.key(one)
            refused = self.done.refused.get(key or "")
            if refused is None:
                self._publish(one, self.done.compared[key or ""])
            else:
                problem = UsageError(f"It was trained on {one.model}, which is refused: {refused}")
                self.done.doubts[one.place] = Doubt(problem)
        return bool(ready)

    def _publish(self, one: Adapter, compared: FolderCompared) -> None:
        above = Reference.parse(compared.fitting[0].reference).path
        trained = TrainedFolder(self.contents.models[one.model or ""].folder, one.words)
        beside = Beside.of(trained, one.made.saved, self.contents.around)
        told = compared.beside(one.words, beside.times, beside.recorded, covered=beside.covered)
        if told.why_not is not None:
            why = UsageError(f"{told.why_not[:1].upper()}{told.why_not[1:]}.", code="parent_ambiguous")
            near = tuple((each.reference, "its merged weights are equal now") for each in compared.fitting)
            self.done.doubts[one.place] = Doubt(why, near)
            return
        problem = self._try(one, above, told)
        if isinstance(problem, UsageError):
            near = tuple((each.reference, "its merged weights are equal") for each in compared.fitting)
            self.done.doubts[one.place] = Doubt(problem, near)
        elif problem is not None:
            self.done.refused[one.place] = problem

    def _try(
        self, one: Adapter, above: TreePath, compared: FolderCompared | None, *, given: bool = False
    ) -> RegistryError | None:
        """Publish an adapter below a path of the private registry, ``given`` or proven; the error, if it can't be."""
        try:
            target = free_path(self._paths.get(above, above), name_of(one), self._taken)
            path = TreePath(above.base, (*above.names, target.name))
            word = {"parent": str(above), "skip_parent_check": True, "find_parent": False} if given else {}
            made = replace(one.made, trained_on=None).with_request(path=str(path), compared=compared, **word)
            answer = self.private.folders.publish(made, SILENT)
        except UnavailableError:
            raise
        except RegistryError as problem:
            return problem
        there = self.there.revisions.get(answer.revision.digest)
        self._paths[path] = target if there is None else Reference.parse(there).path
        self.done.landed[one.place] = Landed(answer, self._paths[path], there)
        return None

    def _publish_otherwise(self) -> bool:
        """Publish what other proofs place: receipts, names of repositories, Hub views, copied weights."""
        before = len(self.done.landed)
        unproven = {one.place for one in lora_files(self._waiting)}
        for one in [one for one in self._waiting if one.model is None and one.place not in unproven]:
            tried = self._tried.setdefault(one.place, {})
            places = [name for name in (*self._of_receipt(one), *self.done.bases.values()) if name not in tried]
            for name in itertools.chain(places, self._proven_there(one)):
                tried[name] = self._try(one, TreePath.parse(name), None)
                if one.place in self.done.landed:
                    self._waiting.remove(one)
                    break
        return len(self.done.landed) > before

    def _subtract(self, pending: Sequence[str]) -> bool:
        """Place adapters by models that they were merged into: less the base model, such a model is what they add.

        Of those that name a repository which is not here. Each is tried on every base model, and stays below the one
        with which it makes a model here, every bit of it. So do checkpoints that would be left, on what they were
        trained on.
        """
        models = [key for key in pending if self.contents.models[key].digest is not None]
        spare = [one for one in self._spare if one not in self.done.kept]
        waiting = [one for one in (*self._waiting, *spare) if one.repo is not None]
        ready = [one for one in spare if (key := self.contents.key(one)) is not None and key in self.done.compared]
        ready = [one for one in ready if self.done.compared[self.contents.key(one) or ""].is_equal]
        bases = sorted(set(self.done.bases.values()))
        looked_at = frozenset([*bases, *models, *(one.place for one in (*waiting, *ready))])
        if not models or not (waiting or ready) or looked_at in self._subtracted:
            return False
        self._subtracted.add(looked_at)
        for one in ready:
            self._publish(one, self.done.compared[self.contents.key(one) or ""])
            self.done.doubts.pop(one.place, None)
            self.done.refused.pop(one.place, None)
        if self._keep_merged([one for one in ready if one.place in self.done.landed], models):
            return True
        return any(self._subtract_base(base, waiting, models) for base in bases)

    def _subtract_base(self, base: str, waiting: Sequence[Adapter], models: Sequence[str]) -> bool:
        tried = [one for one in waiting if self._try(one, TreePath(base), None, given=True) is None]
        for one, shown in (kept := self._keep_merged(tried, models)):
            self.done.landed[one.place] = replace(self.done.landed[one.place], merged=shown)
        return bool(kept)

    def _keep_merged(self, tried: Sequence[Adapter], models: Sequence[str]) -> list[tuple[Adapter, tuple[str, str]]]:
        """Retain those of some private adapters that a model of the heap is made of, with it and how equal."""
        paths = {self.done.landed[one.place].answer.revision.path: one for one in tried}
        kept: list[tuple[Adapter, tuple[str, str]]] = []
        for key in models if paths else ():
            found = self._search(self.private, key)
            if not found.is_equal or len({one.weights for one in found.fitting}) > 1:
                continue
            one = paths.pop(str(Reference.parse(found.fitting[0].reference).path), None)
            if one is not None:
                kept.append((one, (key, found.proof or "")))
        for path, one in paths.items():
            self.private.registry.delete(self.done.landed.pop(one.place).answer.revision.reference)
            del self._paths[TreePath.parse(path)]
        self._waiting = [one for one in self._waiting if one.place not in self.done.landed]
        self.done.kept += [one for one, _ in kept if one in self._spare]
        return kept

    @cached_property
    def _spare(self) -> list[Adapter]:
        """Checkpoints that are left, and are no copies of what is not."""
        known = {one.identity for one in self.contents.adapters}
        return [one for one in self.contents.spare if one.identity not in known]

    def _of_receipt(self, one: Adapter) -> Iterator[str]:
        """The path of the private registry that the adapter continues, if an export's receipt names one that exists."""
        given = one.made.request.receipt
        digest = None if given is None else given.receipt.made_for
        landed = [each.answer.revision for each in self.done.landed.values()]
        if (path := next((each.path for each in landed if each.digest == digest), None)) is not None:
            yield path
        elif (there := self.there.revisions.get(digest or "")) is not None and self._can_copy(there):
            yield str(Reference.parse(there).path)

    def _proven_there(self, one: Adapter) -> Iterator[str]:
        """Base models that only the registry has, and that the adapter's configuration proves; they are copied."""
        if one.place in self._asked:
            return
        self._asked.add(one.place)
        for name in sorted(set(self.there.bases.values()) - set(self.done.bases.values())):
            made = one.made.with_request(path=str(free_path(TreePath(name), "probe", self.there.taken)))
            try:
                self.target.folders.plan(made, SILENT)
            except UnavailableError:
                raise
            except RegistryError:
                continue
            if self._can_copy(name):
                yield name

    def _leave(self, one: Adapter) -> None:
        """Record what an unplaced adapter may belong to."""
        if one.model is not None:
            self.done.doubts[one.place] = self._doubt(one)
            return
        tried = self._tried.get(one.place, {})
        fits = [(name, "its tensors fit this base model") for name, why in tried.items() if isinstance(why, UsageError)]
        maybe = [(place, "its folder has the name that the configuration says") for place in one.maybe[:_LISTED]]
        refused = next((why for why in tried.values() if why is not None), None)
        if refused is not None and not fits and not maybe:
            self.done.refused[one.place] = refused
            return
        named = f"{one.named!r}, which is not here" if one.named else "nothing"
        why = UsageError(f"It says that it was trained on {named}.", code="parent_ambiguous")
        self.done.doubts[one.place] = Doubt(why, (*maybe, *fits))

    def _doubt(self, one: Adapter) -> Doubt:
        found, model = self.done.compared.get(self.contents.key(one) or ""), self.contents.models[one.model or ""]
        near = () if found is None else tuple((each.reference, _away(each.distance)) for each in found.near)
        if self.contents.key(one) in self.done.maybe_full:
            near = ((self.contents.key(one) or "", "it was trained on that folder, which is undecided"), *near)
        why = f"It was trained on {one.words}, and nothing here makes those weights."
        if found is not None and found.order:
            why = f"{one.words} was made by merging {' then '.join(found.order)}, and no path has that order."
        elif (place := self._refused_at(model.folder)) is not None:
            why = f"It was trained on {place}, which is refused here: see there."
        elif not any(model.folder.glob("*.safetensors")):
            why = f"It was trained on {one.words}, which holds no safetensors weights."
        elif model.digest is None and not near and Path(model.key).is_absolute():
            why = (
                f"It was trained on {one.words}, which lies elsewhere and is no model of this registry: add what it is "
                f"made of, or itself with {command('registry', 'base', 'add', 'NAME', model.folder)}, and plan again."
            )
        elif found is not None and found.reason is not None:
            why = f"It was trained on {one.words}, which can't be compared: {found.reason}."
        return Doubt(UsageError(why, code="parent_ambiguous"), near)

    def _refused_at(self, folder: Path) -> str | None:
        """The place of a folder of the heap that can't be read as what it is."""
        there = folder.resolve()
        return next((one.place for one, _ in self.contents.refused if one.folder.resolve() == there), None)

    def _look_again(self) -> None:
        """Search once more for models that were explained early: something published later may equal them as well."""
        here = self._candidates
        for key, before in list(self.done.compared.items()):
            used = [
                one for one in self.contents.adapters if self.contents.key(one) == key and one.place in self.done.landed
            ]
            itself = key in self.done.bases or key in self.done.full
            if not used or itself or self._searched.get(key) == here or not before.is_equal:
                continue
            found = self._search(self.private, key)
            # what was trained on a model is no part of it, even if it changes nothing
            above = {self.done.landed[one.place].answer.revision.path for one in used}
            fitting = tuple(
                one for one in found.fitting if above.isdisjoint(_and_above(Reference.parse(one.reference).path))
            )
            self.done.compared[key] = found = found.model_copy(update={"fitting": fitting})
            if len({one.weights for one in fitting}) > 1:
                self._withdraw(used, found)

    def _withdraw(self, adapters: Sequence[Adapter], found: FolderCompared) -> None:
        near = tuple((one.reference, "its merged weights are equal") for one in found.fitting)
        names = ", ".join(one.reference for one in found.fitting)
        for one in adapters:
            gone = self.done.landed.pop(one.place, None)
            why = f"The weights in {one.words} match {names} equally."
            self.done.doubts[one.place] = Doubt(UsageError(why, code="parent_ambiguous"), near)
            for place, other in list(self.done.landed.items()):
                if gone is not None and other.answer.revision.path.startswith(f"{gone.answer.revision.path}/"):
                    del self.done.landed[place]
                    why = f"Its parent would be {one.place}, which is undecided."
                    self.done.doubts[place] = Doubt(
                        UsageError(why, code="parent_ambiguous"), ((one.place, "so it says"),)
                    )


def _and_above(path: TreePath) -> set[str]:
    """A path and those above it."""
    return {str(TreePath(path.base, path.names[:count])) for count in range(len(path.names) + 1)}


def name_of(adapter: Adapter) -> str:
    """The name that the folder of an adapter suggests."""
    return wanted_name(_said(adapter.place, adapter.found.folder), adapter.found.repo, dots=False)


def _said(place: str, folder: Path) -> str:
    return folder.absolute().name if place == "." else place


def _away(distance: float) -> str:
    return f"{100 * distance:.3g} % of its norm away"
