"""Archives: a path may lead into one, whose files lie in a private folder for as long as they are needed.

Every name, kind and size in one is looked at before a byte of it is written (`registry.folders.archive_entries`), and
what is written is counted. No archive in an archive is unpacked.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import IO, Final, TypeVar

from registry.errors import InvalidAdapterError, NotFoundError, RegistryError, UnavailableError, UsageError
from registry.figures import command
from registry.figures import size as said_size
from registry.files.opened import open_new
from registry.folders.archive_entries import Entry, checked, damaged, entries_of, name_of, reading
from registry.folders.foreign import is_archive
from registry.folders.heaps import Taken, walk_heap
from registry.folders.local_files import ErrorMapping, telling_unwritable, unreadable_file
from registry.folders.lora_beside import LoraFacts, lora_facts, pictures_beside
from registry.folders.lora_files import is_lora_file, only_weights, put_beside, write_config
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PICKLED_WEIGHTS, README, is_own_file
from registry.folders.staging import temporary_folder
from registry.progress import Progress
from registry.schemas.form import Schema

UNTIMED: Final = 4_102_444_800.0
"""The time of what was unpacked (the year 2100): `registry.transfer.file_times` ignores it.

Archives store times without a zone or not at all, and when something came into this folder means nothing.
"""

_LISTED: Final = 5
_CHUNK: Final = 1 << 20

AnySchema = TypeVar("AnySchema", bound=Schema)
Convert = Callable[[Path, Path], None]
"""Writes the tensors in a pickle as a new safetensors file; both are given."""


@dataclass
class Opened:
    """The archives that were opened, and the pickles whose tensors were written; all of it goes with the context."""

    stack: ExitStack
    progress: Progress
    convert: Convert
    component: str | None = None  # of a pipeline, which the names of a LoRA file mean
    _roots: dict[Path, Path] = field(default_factory=dict)  # where what was given is read; later ones may lie in it
    _room: Path | None = None
    _members: dict[tuple[Path, int, int], dict[str, int]] = field(default_factory=dict)  # of archives as they were
    _facts: dict[Path, LoraFacts] = field(default_factory=dict)  # of LoRA files, by the configuration that was made

    def folder(self, place: str | PathLike[str]) -> Path:
        """A path on this machine; one that leads to or into an archive as the folder of its unpacked files.

        Raises:
            InvalidAdapterError: ``bad_archive`` or ``path_traversal``, the archive is not unpacked.
            NotFoundError: it holds no such thing.
            UnavailableError: ``disk_full``; or it can't be read.
        """
        path = Path(place)
        archive = archive_of(path)
        if archive is None:
            return path
        if archive not in self._roots:
            self._roots[archive] = self._unpacked(archive)
        found = self._roots[archive] / path.relative_to(archive)
        if not found.exists():
            top = sorted(one.name for one in self._roots[archive].iterdir())
            listed = f"{', '.join(top[:_LISTED])}{', ...' if len(top) > _LISTED else ''}"
            raise NotFoundError(
                f"{archive} has no {str(path.relative_to(archive))!r}: at its top it holds {listed or 'nothing'}.",
                code="missing_file",
            )
        return found

    def one(self, place: str | PathLike[str], wanted: Taken | None = None) -> Path:
        """As `folder`; an archive itself is the one adapter or model in it, else what it holds, to be refused for that.

        A LoRA file of an image model is a folder, too.

        Raises:
            UsageError: several exist.
            InvalidAdapterError: ``missing_file``, none exists; or what `folder` raises.
        """
        archive = archive_of(Path(place))
        if wanted != "model" and archive is None and is_lora_file(Path(place)):
            return self.lora_folder(Path(place))
        if archive is None or archive != Path(place):
            return self.folder(place)
        heap = walk_heap(archive, self)
        found = [one for one in heap.found if one.kind.what == (wanted or "adapter")] or heap.found
        if len(found) == 1:
            return found[0].folder
        if not found:
            why = next((f" ({one.place}: {one.why})" for one in heap.left if one.why), "")
            raise InvalidAdapterError(
                f"{archive} holds no {wanted or 'adapter or model'}{why}; a folder that save_pretrained wrote is "
                "expected in it.",
                code="missing_file",
            )
        places = [str(archive / one.place) for one in found]
        listed = f"{', '.join(places[:_LISTED])}{', ...' if len(places) > _LISTED else ''}"
        raise UsageError(
            f"{archive} holds {len(places)} {found[0].kind.taken}s: give one of them, {listed}; or bring in all with "
            f"{command('registry', 'import', archive, '--plan', 'FILE')}."
        )

    def names(self, archive: Path) -> list[str]:
        """The names of all files in an archive, which is checked as a whole; raises what `folder` does."""
        return list(self._checked(archive))

    def _checked(self, archive: Path) -> dict[str, int]:
        """The files of an archive and their sizes, checked once as long as it stays: that takes unpacking all of it."""
        with ErrorMapping(unreadable_file, archive):
            now = archive.stat()
        key = archive, now.st_mtime_ns, now.st_size
        if key not in self._members:
            self._members[key] = checked(archive)
        return self._members[key]

    def readable(self, folder: Path) -> Path:
        """A folder; one of an adapter whose weights are a pickle, or a LoRA file, with the missing files added."""
        if (name := _lora_file_in(folder)) is not None:
            return self.lora_folder(folder / name)
        pickle, config = folder / PICKLED_WEIGHTS, folder / ADAPTER_CONFIG
        if any(folder.glob("*.safetensors")) or not (is_own_file(pickle, folder) and is_own_file(config, folder)):
            return folder
        written = self.weights(pickle)
        written.rename(written.with_name(ADAPTER_WEIGHTS))
        shutil.copy(config, written.parent)
        self._roots[folder] = written.parent
        return written.parent

    def lora_folder(self, file: Path) -> Path:
        """A LoRA file as the folder of an adapter, with the configuration that it lacks, its card and its pictures."""
        config = self.lora(file, file.name, file.parent)[ADAPTER_CONFIG]
        folder = config.parent
        put_beside(file, folder / ADAPTER_WEIGHTS)
        pictures, left_out = pictures_beside(file)
        for name, picture in pictures.items():
            (folder / name).parent.mkdir(exist_ok=True)
            put_beside(picture, folder / name)
        self._facts[config] = replace(self._facts[config], left_out=left_out)
        self._roots[file] = folder
        return folder

    def lora(self, file: Path, name: str, folder: Path) -> dict[str, Path]:
        """What a LoRA file of that name in a folder lacks, in a new one: a configuration, and maybe a card."""
        out = self._new_folder()
        config = out / ADAPTER_CONFIG
        made = {ADAPTER_CONFIG: config}
        write_config(file, name, config, self.component)
        facts = self._facts[config] = lora_facts(file, name, folder)
        if card := facts.about.card():
            made[README] = out / README
            with telling_unwritable(made[README]):
                made[README].write_text(card, encoding="utf-8")
        return made

    @property
    def made_config(self) -> bool:
        """Whether a LoRA file was among what was opened."""
        return bool(self._facts)

    def facts(self, config: Path) -> LoraFacts | None:
        """What is known of the LoRA file that a configuration was made for; None: it was made for none."""
        return self._facts.get(config)

    def weights(self, pickle: Path) -> Path:
        """A new safetensors file with the tensors of a pickle."""
        out = self._new_folder() / "weights.safetensors"
        self.convert(pickle, out)
        return out

    def is_inside(self, place: Path) -> bool:
        """Whether a path is one of what was unpacked."""
        return any(place.is_relative_to(root) for root in self._roots.values())

    def named(self, place: Path) -> Path:
        """A path as the user knows it: through the archive, not through where that was unpacked."""
        for given, root in reversed(self._roots.items()):
            if place.is_relative_to(root):
                place = given / place.relative_to(root)
        return place

    def told(self, text: str) -> str:
        """A text in which what was unpacked is called by its archive."""
        for given, root in reversed(self._roots.items()):
            text = text.replace(str(root), str(given))
        return text

    def error(self, problem: RegistryError) -> RegistryError:
        """An error in these words."""
        text = self.told(str(problem))
        return problem if text == str(problem) else type(problem)(text, code=problem.code)

    def answer(self, answer: AnySchema) -> AnySchema:
        """An answer in these words."""
        if not self._roots:
            return answer
        text = answer.model_dump_json()
        for given, root in reversed(self._roots.items()):
            text = text.replace(_in_json(root), _in_json(given))
        return type(answer).model_validate_json(text)

    def _unpacked(self, archive: Path) -> Path:
        members = self._checked(archive)
        total = sum(members.values())
        folder = self._new_folder()
        with telling_unwritable(folder):
            free = shutil.disk_usage(folder).free
        if total > free:
            raise UnavailableError(
                f"{archive} takes {said_size(total)} unpacked, and there are {said_size(free)} in {folder.parents[2]}: "
                "set TMPDIR to a larger disk, or free some space.",
                code="disk_full",
            )
        self.progress.begin(f"Unpacking {archive.name}", total)
        for member in entries_of(archive):
            if stat.S_ISDIR(member.kind):
                continue
            name = name_of(archive, member)
            if members.get(name) != member.size:
                raise damaged(archive, "it was changed while it was read")
            target = folder / name
            with telling_unwritable(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                with os.fdopen(open_new(target), "wb") as out:
                    self._write(archive, member, out)
                os.utime(target, (UNTIMED, UNTIMED))
        return folder

    def _write(self, archive: Path, member: Entry, out: IO[bytes]) -> None:
        """Write one file, of which no more is read than was declared."""
        left = member.size
        with reading(archive):
            stream = member.stream()
        while True:
            with reading(archive):
                data = stream.read(min(_CHUNK, left + 1))
            left -= len(data)
            if not data or left < 0:
                break
            out.write(data)
            self.progress.advance(len(data))
        if left:
            raise damaged(archive, f"{member.name} is not as long as it says")

    def _new_folder(self) -> Path:
        with telling_unwritable(Path("the folder for temporary files")):
            if self._room is None:
                self._room = self.stack.enter_context(temporary_folder("registry-unpacked")).resolve()
            count = sum(1 for _ in self._room.iterdir())
            folder = self._room / f"{count:06}"
            folder.mkdir(mode=0o700)
        return folder


def _lora_file_in(folder: Path) -> str | None:
    """The LoRA file of a folder that has no configuration of an adapter; None: it holds no such file, or several."""
    name = None if (folder / ADAPTER_CONFIG).exists() else only_weights([one.name for one in folder.glob("*")])
    return name if name is not None and is_lora_file(folder / name) else None


def _in_json(path: Path) -> str:
    """A path as it stands in a text of JSON, which has an escape for a quote."""
    return json.dumps(str(path), ensure_ascii=False)[1:-1]


@contextmanager
def opened(convert: Convert, progress: Progress) -> Iterator[Opened]:
    """Let paths lead into archives; whatever was written for that is removed on every exit.

    Args:
        convert: reads pickles.
        progress: of unpacking.

    Raises:
        RegistryError: that of the block, with the path of the archive as it was given.
    """
    with ExitStack() as stack:
        found = Opened(stack, progress, convert)
        try:
            yield found
        except RegistryError as problem:
            renamed = found.error(problem)
            if renamed is problem:
                raise
            raise renamed from problem


def archive_of(path: Path) -> Path | None:
    """The archive that a path leads to or into; None: it leads to none."""
    places = (one for one in reversed([path, *path.parents]) if is_archive(one.name))
    return next((one for one in places if os.path.isfile(one)), None)  # noqa: PTH113 - raises nothing
