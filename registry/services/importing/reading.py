"""Reads what a heap holds: models and adapters, hashed once, and which model each adapter names as trained on.

Heaps that were moved: the folders that configurations name have another root now.

A name that ends like a place of the heap proves little: ``out/merged`` is common. If the names of two different folders
have the same root before their places in the heap, the heap was at that root.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from registry.errors import InvalidAdapterError, RegistryError
from registry.files.header import read_header
from registry.folders.archives import Opened
from registry.folders.heaps import Found, Heap
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.operations.publication import Publication
from registry.progress import SILENT, Part, Progress
from registry.reference import Path as TreePath
from registry.schemas import FileEntry
from registry.services.importing.names import says_copy
from registry.services.importing.trainer_notes import began_with
from registry.services.publishing.hub_parent import names_repo
from registry.transfer.file_times import Around
from registry.transfer.index import index_model
from registry.transfer.model_files import read_model_files, unquantised
from registry.transfer.publish_request import PublishFolder, read_adapter
from registry.transfer.trained_on import TrainedFolder, trained_folder, trained_on

_LEAST: Final = 2  # folders that imply the same root
_UNSETTLED: Final = TreePath("unsettled")
"""The path of an adapter until it is known where it belongs."""


@dataclass(frozen=True)
class Moved:
    """The roots that a heap may have been at, with the places that names below them stand for."""

    places: dict[tuple[str, ...], dict[tuple[str, ...], str]]  # by root: the parts of places below it

    @classmethod
    def of(cls, named: Sequence[str], places: Sequence[str]) -> Moved:
        """Find the roots that the names of folders which are gone have in common."""
        roots: dict[tuple[str, ...], dict[tuple[str, ...], str]] = {}
        for name in set(named):
            parts = named_parts(name)
            for place in places:
                below = named_parts(place)
                if below and len(parts) > len(below) and parts[-len(below) :] == below and _absolute(name):
                    roots.setdefault(parts[: -len(below)], {})[below] = place
        return cls({lead: found for lead, found in roots.items() if len(found) >= _LEAST})

    def place(self, name: str) -> str | None:
        """The place that a name refers to now; None: unknown, or several."""
        found = set(self._places(named_parts(name)))
        return found.pop() if len(found) == 1 else None

    def _places(self, parts: tuple[str, ...]) -> Iterator[str]:
        for lead, places in self.places.items():
            if parts[: len(lead)] == lead and (place := places.get(parts[len(lead) :])) is not None:
                yield place


def named_parts(name: str | None) -> tuple[str, ...]:
    """The parts of a path, of any system."""
    return tuple(part for part in re.split(r"[/\\]+", name or "") if part not in {"", "."})


def _absolute(name: str) -> bool:
    return name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) is not None


_TRAINED: Final = ("trainer_state.json", "training_args.bin", "train_results.json", "all_results.json", "optimizer.pt")
"""What trainers leave in the folder of the weights that they have trained."""
_PAIRED: Final = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?!.*\bbias$)(\.|$)")


@dataclass(frozen=True)
class Model:
    """A folder that adapters are trained on: a whole model, or another adapter."""

    key: str  # its place in the heap; the path of one outside it
    folder: Path
    digest: str | None = None  # of a model's weights; None: outside the heap or an adapter, and only compared
    files: tuple[FileEntry, ...] = ()
    repo: str | None = None  # of a cache of the Hub
    written: float = 0.0
    receipt: bool = False
    with_adapter: bool = False  # an adapter was saved into its folder, so that it is no entry of its own
    trained: bool = False  # a trainer left its files in it
    began_with: frozenset[str] = frozenset()  # the models that it names as its sources
    run: Path | None = None  # of a checkpoint
    vectors: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # dtype and digest of norms and biases


@dataclass(frozen=True)
class Adapter:
    """A folder with an adapter that can be read."""

    found: Found
    made: PublishFolder
    named: str | None  # base_model_name_or_path
    model: str | None = None  # key of the model it was trained on
    words: str = ""  # how messages call that one's folder
    maybe: tuple[str, ...] = ()  # places of what may be the folder that it was trained on, which is gone

    @property
    def place(self) -> str:
        """Its place in the heap."""
        return self.found.place

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Its files, as they were hashed."""
        return tuple(FileEntry(path=one.path, size=one.size, digest=one.digest) for one in self.made.request.files)

    @property
    def repo(self) -> str | None:
        """The repository that it names as trained on, which is not in the heap, unless the name is a folder's."""
        folder = any(place.endswith(f"/{self.named}") for place in self.maybe)
        return self.named if self.model is None and not folder and names_repo(self.named) else None

    @property
    def is_lora_file(self) -> bool:
        """Whether it is a LoRA file of an image model, whose configuration was made."""
        return self.made.lora is not None

    @property
    def said_base(self) -> str | None:
        """The base model that a LoRA file's metadata name; None: none."""
        return None if self.made.lora is None else self.made.lora.about.base_named or None

    @cached_property
    def is_of_pairs(self) -> bool:
        """Whether all that it has are pairs of factors, which change matrices alone: no norm and no bias."""
        try:
            entries = read_header(self.made.head, what=ADAPTER_WEIGHTS, error=InvalidAdapterError).entries
        except InvalidAdapterError:
            return False
        return all(_PAIRED.search(name) is not None for name in entries)

    @property
    def identity(self) -> tuple[str, ...]:
        """The same for copies of one adapter."""
        digests = {one.path: one.digest for one in self.made.request.files}
        return digests[ADAPTER_CONFIG], digests[ADAPTER_WEIGHTS]


@dataclass
class Contents:
    """What a heap holds."""

    models: dict[str, Model] = field(default_factory=dict)  # by key
    adapters: list[Adapter] = field(default_factory=list)
    spare: list[Adapter] = field(default_factory=list)  # checkpoints that come in only if a model is made of them
    refused: list[tuple[Found, RegistryError]] = field(default_factory=list)
    around: Around | None = None  # the files of the heap; None: repositories of a Hub

    @cached_property
    def same_weights(self) -> Mapping[str, str]:
        """Copies of models, by key: that of the original, which they are."""
        first: dict[str, str] = {}
        for key in sorted(self.models, key=self._original):
            first.setdefault(self.models[key].digest or key, key)
        of = {key: first[model.digest or key] for key, model in self.models.items()}
        return {key: other for key, other in of.items() if other != key}

    @cached_property
    def _alike(self) -> tuple[tuple[Adapter, ...], ...]:
        """The adapters with their copies, those first that give their names first."""
        found: dict[tuple[str, ...], list[Adapter]] = {}
        for one in sorted(self.adapters, key=lambda one: (one.found.run is not None, *self._original(one.place))):
            found.setdefault((*one.identity, self.key(one) or ""), []).append(one)
        return tuple(map(tuple, found.values()))

    @property
    def originals(self) -> tuple[Adapter, ...]:
        """The adapters without copies."""
        return tuple(alike[0] for alike in self._alike)

    @cached_property
    def same(self) -> Mapping[str, str]:
        """Copies of adapters, by place: that of the original."""
        return {copy.place: first.place for first, *copies in self._alike for copy in copies}

    def key(self, adapter: Adapter) -> str | None:
        """The model that an adapter was trained on, or the original of that copy; an adapter's folder is itself."""
        return None if adapter.model is None else self.same_weights.get(adapter.model, adapter.model)

    def _original(self, place: str) -> tuple[bool, bool, int]:
        """Sorts the copy first that gives what it holds its name: one that others were trained on, and no backup."""
        return not self._uses[place], says_copy(place), -self._uses[place]

    @cached_property
    def _uses(self) -> Counter[str]:
        """How many adapters were trained on each folder."""
        return Counter(one.model for one in self.adapters if one.model is not None)


def read_heap(heap: Heap, opened: Opened, progress: Progress) -> Contents:
    """Read and hash all that is an adapter or a model; what can't be published has the error of that."""
    found = Contents(around=None if heap.root is None else Around(heap.root))
    for one in heap.found:
        if one.kind.taken == "model" or one.with_model:
            _read_model(found, one, progress)
    adapters = [one for one in (*heap.found, *heap.spare) if one.kind.taken == "adapter"]
    spare = {one.place for one in heap.spare}
    for number, one in enumerate(adapters, 1):
        progress.begin(f"Reading {one.place}, {number} of {len(adapters)} adapters", 0)
        try:
            place = one.place if heap.root is None else one.folder
            asked = Publication(place, _UNSETTLED, find_parent=True, opened=opened)
            made = read_adapter(asked, SILENT).with_digests(SILENT)
            found.adapters.append(Adapter(one, made, trained_on(made.request.config)))
        except RegistryError as problem:
            if one.place not in spare:
                found.refused.append((one, problem))
    both = list(_with_models(found))
    found.adapters = [one for one in both if one.place not in spare]
    found.spare = [one for one in both if one.place in spare]
    return found


def _read_model(found: Contents, one: Found, progress: Progress) -> None:
    try:
        files = read_model_files(one.folder)
        unquantised(files.model)
        index = index_model(files, Part(progress, one.place), {})
    except RegistryError as problem:
        if not one.with_model:
            found.refused.append((one, problem))
        return
    found.models[one.place] = Model(
        one.place,
        one.folder,
        index.weights_digest,
        tuple(FileEntry(path=path, size=size, digest=digest) for path, (digest, size) in sorted(index.files.items())),
        one.repo,
        max((each.file.stat().st_mtime for each in files.files if each.path in files.headers), default=0.0),
        any(left.reason == "receipt of a fetch" for left in files.left_out),
        one.with_model,
        one.run is not None or any((one.folder / name).exists() for name in _TRAINED),
        began_with(one.folder, files.model.config),
        None if one.run is None else one.folder.parent,
        {
            name: (tensor.entry.dtype, tensor.digest)
            for name, tensor in index.tensors.items()
            if len(tensor.entry.shape) == 1
        },
    )


def _with_models(found: Contents) -> Iterator[Adapter]:
    """The adapters with the models that they were trained on."""
    real = {model.folder.resolve(): key for key, model in found.models.items()}
    adapters = {one.found.folder.resolve(): one.place for one in found.adapters}
    repos: dict[str, list[str]] = {}
    for key, model in found.models.items():
        if model.repo is not None:
            repos.setdefault(model.repo, []).append(key)
    moved = Moved.of([one.named for one in found.adapters if one.named], list(found.models))
    for one in found.adapters:
        taken = one.made.request.source is not None  # of another machine, whose folders it names
        there = None if taken else trained_folder(one.made.request.config, one.found.folder)
        if there is not None:
            yield _on_folder(found, one, there, real, adapters)
        elif len(keys := repos.get(one.named or "", [])) == 1:
            words = f"{keys[0]}, the repository {one.named} in a cache of the Hub"
            yield replace(one, model=keys[0], words=words)
        elif one.named and (place := moved.place(one.named)) is not None:
            words = f"{place}, which was {one.named} before the folders were moved"
            yield replace(one, model=place, words=words)
        else:
            yield replace(one, maybe=tuple(_alike(one.named, found.models)))


def _on_folder(
    found: Contents, one: Adapter, there: TrainedFolder, models: dict[Path, str], adapters: dict[Path, str]
) -> Adapter:
    place = there.place.resolve()
    if place in models:
        return replace(one, model=models[place], words=models[place])
    key = adapters.get(place, str(place))
    found.models.setdefault(key, Model(key, place))
    return replace(one, model=key, words=there.words)


def _alike(named: str | None, models: Mapping[str, Model]) -> Iterator[str]:
    """Places of models whose folder is called as the one that is named."""
    parts = named_parts(named)
    for key, model in models.items():
        if parts and model.folder.name == parts[-1]:
            yield key


def order_of(models: Mapping[str, Model], adapters: Sequence[Adapter]) -> list[str]:
    """Keys of models, those first that are most likely base models; proofs decide, the order saves time."""
    named = [one.model for one in adapters]
    known = {name for model in models.values() for name in (model.repo, str(model.folder))}

    def likely(key: str) -> tuple[bool, bool, bool, bool, int, float, str]:
        model = models[key]
        return (
            model.receipt,
            not known.isdisjoint(model.began_with),
            model.trained,
            model.repo is None,
            -named.count(key),
            model.written,
            key,
        )

    return sorted(models, key=likely)
