"""Heaps of folders as teams leave them: what each folder is, and which checkpoints belong to which run.

Folders are classified by the names in them alone. No link is followed: files of a cache of the Hub's client are links
into its blobs, which `registry.folders.scan` knows. The state of a trainer of transformers has figures that become
metrics. Needs no torch.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeGuard

from registry.errors import RegistryError, UsageError
from registry.folders.foreign import is_archive, is_unread_archive, no_folder
from registry.folders.local_files import reason
from registry.folders.lora_runs import end_of_run
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from registry.schemas.form import check_name

_MOST_METRICS: Final = 32
OF_TRAINING: Final[Mapping[str, tuple[str, ...]]] = {"train_loss": ("loss", "train_loss"), "train_reward": ("reward",)}
"""Metrics of the training itself, and how trainers log them; those of policies log the reward of their rollouts."""


def metrics_among(values: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Those of some names and values that can be metrics; of one name the last."""
    metrics: dict[str, float] = {}
    for name, value in values:
        if len(metrics) < _MOST_METRICS and _is_metric(name, value):
            metrics[name] = float(value)
    return metrics


def figures_of_state(state: Mapping[str, Any], step: int | None) -> Iterator[tuple[Any, Any]]:
    """The last evaluation up to the step, None for the end; and what was best, as the trainer counts it."""
    history = state.get("log_history")
    entries = [one for one in history if isinstance(one, dict)] if isinstance(history, list) else []
    if step is not None:
        entries = [one for one in entries if is_number(one.get("step")) and one["step"] <= step]
    last = next((one for one in reversed(entries) if any(str(key).startswith("eval_") for key in one)), {})
    yield from ((key, value) for key, value in last.items() if str(key).startswith("eval_") and is_of_weights(str(key)))
    for metric in OF_TRAINING:
        yield metric, next((one for entry in reversed(entries) if (one := figure_of(entry, metric)) is not None), None)
    yield "best_metric", state.get("best_metric")


def figure_of(entry: Mapping[str, Any], metric: str) -> Any:
    """The figure of a metric in an entry of a trainer's log; None: it has none."""
    return next((entry[name] for name in OF_TRAINING.get(metric, (metric,)) if name in entry), None)


def is_of_weights(name: str) -> bool:
    """Whether a figure is about the weights, and not about the machine."""
    return not name.endswith(("_runtime", "_per_second"))


def _is_metric(name: object, value: object) -> bool:
    if not isinstance(name, str) or not is_number(value):
        return False
    try:
        check_name("Metric name", name)
    except UsageError:
        return False
    return True


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a finite number; True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


Taken = Literal["adapter", "model"]


@dataclass(frozen=True)
class Kind:
    """A kind of folder: it has a file of one of these names, and one of those next to it."""

    what: str
    names: re.Pattern[str]
    beside: re.Pattern[str] | None = None
    taken: Taken | None = None  # None: it stays where it is
    why: str | None = None  # None: the sentence that publishing it gives
    single: bool = False  # each file of these names is one of its own


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_WEIGHTS: Final = r".*\.safetensors"
_PICKLED: Final = r"pytorch_model.*\.bin"

KINDS: Final = (
    Kind("adapter", _any(re.escape(ADAPTER_CONFIG)), taken="adapter"),
    Kind("adapter without its configuration", _any(r"adapter_model\..*"), taken="adapter"),
    Kind("LoRA of mlx-lm", _any(r"adapters\.(safetensors|npz)"), taken="adapter"),
    Kind("LoRA of diffusers", _any(r"pytorch_lora_weights\..*"), taken="adapter"),
    Kind("model", _any(r"config\.json"), _any(_WEIGHTS, _PICKLED), taken="model"),
    Kind("model", _any(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)"), taken="model"),
    Kind(
        "DeepSpeed state",
        _any(r"zero_to_fp32\.py", r".*_model_states\.pt", r".*_optim_states\.pt"),
        why="state of DeepSpeed, which holds optimiser states in pickles: run its zero_to_fp32.py to get weights, and "
        "save them with save_pretrained",
    ),
    Kind(
        "FSDP state",
        _any(r".*\.distcp"),
        why="sharded state of FSDP: turn it into safetensors with `accelerate merge-weights` first",
    ),
    Kind("weights in one file", _any(_WEIGHTS), taken="adapter", single=True),
    Kind("weights for llama.cpp", _any(r".*\.(gguf|ggml)"), taken="adapter"),
    Kind(
        "pickled weights",
        _any(r".*\.(bin|pt|pth|ckpt)"),
        why="its weights are pickles, of which only adapter_model.bin beside an adapter_config.json is read; save them "
        "as safetensors",
    ),
)
"""`Kind.taken`: what is tried with it, so that it is refused with the very sentence of that."""

NOT_ENTERED: Final = re.compile(r"\..*|__pycache__|global_step\d+|wandb|mlruns|runs-tensorboard|node_modules")
"""Names of folders that are not looked into: hidden ones, and those where programs store their own files."""

CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")
HUB_REPO: Final = re.compile(r"models--([^/]+?)--([^/]+)")
"""A repository in a cache of the Hub's client."""

_STATE: Final = re.compile(r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)|rng_state.*")


def kind_of(names: Collection[str]) -> Kind | None:
    """The kind of a folder with files of these names; None: nothing that a registry is about."""
    said = [name for name in names if not name.startswith(".") and _STATE.fullmatch(name) is None]
    for kind in KINDS:
        if any(kind.names.fullmatch(name) for name in said) and (
            kind.beside is None or any(kind.beside.fullmatch(name) for name in said)
        ):
            return kind
    return None


def holds_model_too(names: Collection[str]) -> bool:
    """Whether a folder with an adapter holds a whole model, too: one was saved into the other's folder."""
    others = {name for name in names if name.endswith(".safetensors")} - {ADAPTER_WEIGHTS}
    return "config.json" in names and bool(others)


DEPTH: Final = 16
"""Folders below each other that are looked into."""
_AS_ONE: Final = "`registry publish -r` makes revisions of one adapter of all that a training saved"
_MOST_STATE: Final = 64 << 20
_NAMED: Final = 4  # checkpoints of one run that are named one by one


class Archives(Protocol):
    """What lets a walk go through archives: `registry.folders.archives.Opened`."""

    def folder(self, place: str | PathLike[str]) -> Path:
        """A path that may lead to or into an archive as a folder."""

    def names(self, archive: Path) -> list[str]:
        """The names of all files in an archive."""

    def named(self, place: Path) -> Path:
        """A path as the user knows it."""

    def is_inside(self, place: Path) -> bool:
        """Whether it was unpacked."""


@dataclass(frozen=True)
class Found:
    """A folder of a heap; or a file, where weights lie in it alone."""

    folder: Path
    place: str  # "./" and the path below the heap
    kind: Kind
    run: str | None = None  # of a checkpoint: the place of its run
    repo: str | None = None  # ORG/NAME, of a snapshot in a cache of the Hub
    with_model: bool = False  # an adapter in the folder of a whole model


@dataclass(frozen=True)
class Left:
    """A folder or an archive that is left, and why."""

    place: str
    what: str
    why: str
    code: str | None = None  # of the error that it is refused with


@dataclass
class Heap:
    """What was found, by place."""

    root: Path | None  # None: repositories of a Hub
    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    spare: list[Found] = field(default_factory=list)  # checkpoints that are left, unless something else is made of them


def walk_heap(root: Path, opened: Archives) -> Heap:
    """Look through the folders below ``root``, and at itself; through archives as through folders.

    Args:
        root: a folder, or an archive.
        opened: unpacks the archives that hold an adapter or a model.

    Raises:
        NotFoundError: the folder does not exist.
        What `registry.folders.archives.Opened.folder` raises, for the root.
    """
    folder = opened.folder(root)
    if not folder.is_dir():
        raise no_folder(root)
    walk = _Walk(root, opened)
    walk.enter(folder, 0, None)
    walk.sort_checkpoints()
    return Heap(root, walk.found, walk.left, walk.spare)


@dataclass
class _Walk:
    root: Path
    opened: Archives
    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    spare: list[Found] = field(default_factory=list)

    def place(self, folder: Path) -> str:
        """How plans call a folder: by its place below the heap."""
        below = self.opened.named(folder).relative_to(self.root).as_posix()
        return (
            "." if below == "." else f"./{below}".encode("utf-8", "backslashreplace").decode()
        )  # of a name that is left

    def leave(self, folder: Path, what: str, why: str) -> None:
        """Name a folder that stays where it is."""
        self.left.append(Left(self.place(folder), what, why))

    def enter(self, folder: Path, depth: int, repo: str | None) -> None:
        """Look at a folder and at those below it."""
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            names = {entry.name for entry in entries if entry.is_file()}
            below = [entry for entry in entries if entry.is_dir()]
        except OSError as problem:
            self.leave(folder, "folder", f"it can't be read: {reason(problem)}")
            return
        kind = kind_of(names)
        if kind is not None and kind.taken is None:
            self.leave(folder, kind.what, kind.why or "")
        elif kind is not None and kind.single:
            files = [folder / name for name in sorted(names) if kind.names.fullmatch(name) and _is_text(name)]
            for file in files:
                if (end := end_of_run(file.name)) in names:
                    self.leave(file, "checkpoint", f"of the training that ended with {end}, which is taken: {_AS_ONE}")
                else:
                    self.found.append(Found(file, self.place(file), kind))
        elif kind is not None:
            run = self.place(folder.parent) if CHECKPOINT.fullmatch(folder.name) and depth else None
            both = kind.taken == "adapter" and holds_model_too(names)
            self.found.append(Found(folder, self.place(folder), kind, run, repo, both))
        for entry in below:
            self._below(Path(entry.path), depth + 1, repo)
        for name in sorted(names):
            if is_archive(name) or is_unread_archive(name):
                self._archive(folder / name, depth + 1)

    def _archive(self, archive: Path, depth: int) -> None:
        """Enter an archive that holds an adapter or a model; name any other."""
        if not _is_text(archive.name) or archive.is_symlink():
            self.leave(archive, "archive", "a symbolic link, or its name is no text in UTF-8: it is not followed")
            return
        if self.opened.is_inside(archive) or is_unread_archive(archive.name):
            where = "lies in an archive" if self.opened.is_inside(archive) else "is of a kind that is not read here"
            self.leave(archive, "archive", f"it {where}: unpack it, and plan again")
            return
        try:
            if any(kind is not None and kind.taken for kind in map(kind_of, _by_folder(self.opened.names(archive)))):
                self.enter(self.opened.folder(archive), depth, None)
            else:
                self.leave(archive, "archive", "no adapter and no model is in it")
        except RegistryError as problem:
            self.left.append(Left(self.place(archive), "archive", str(problem), problem.code))

    def _below(self, folder: Path, depth: int, repo: str | None) -> None:
        if not _is_text(folder.name):
            self.leave(folder, "folder", "its name is no text in UTF-8: rename it, so that a plan can name it")
        elif folder.is_symlink():
            self.leave(folder, "link", "a symbolic link to a folder, which is not followed")
        elif depth > DEPTH:
            self.leave(folder, "folder", f"it lies more than {DEPTH} folders deep")
        elif folder.name.startswith("global_step"):
            self.leave(folder, "DeepSpeed state", "state of DeepSpeed, which holds optimiser states in pickles")
        elif (cached := HUB_REPO.fullmatch(folder.name)) is not None and (folder / "snapshots").is_dir():
            for snapshot in self._snapshots(folder):
                self.enter(snapshot, depth + 2, f"{cached[1]}/{cached[2]}")
        elif NOT_ENTERED.fullmatch(folder.name) is None:
            self.enter(folder, depth, repo)

    def _snapshots(self, repo: Path) -> list[Path]:
        """The snapshots of a repository in a cache of the Hub: the one that ``main`` names, else all."""
        try:
            commit = (repo / "refs/main").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            commit = ""
        there = sorted(one for one in (repo / "snapshots").iterdir() if one.is_dir() and not one.is_symlink())
        newest = [one for one in there if one.name == commit]
        for one in there if newest else []:
            if one not in newest:
                self.leave(one, "snapshot", "an older snapshot of this repository: main is another one")
        return newest or there

    def sort_checkpoints(self) -> None:
        """Of each run take what it saved at its end, else its best checkpoint, else its last one."""
        by_run: dict[str, list[Found]] = {}
        for one in self.found:
            if one.run is not None:
                by_run.setdefault(one.run, []).append(one)
        whole = {one.place for one in self.found if one.kind.what in {"adapter", "model"}}
        for run, several in by_run.items():
            if run in whole:
                self._leave(run, several, f"of {run}, whose own weights are taken")
                continue
            chosen, why = _chosen(self.opened.folder(self.root / run), several)
            others = [one for one in several if one is not chosen]
            self._leave(run, others, f"of {run}, of which {chosen.folder.name} is taken: {why}")

    def _leave(self, run: str, several: list[Found], why: str) -> None:
        """Name checkpoints that stay where they are; many of one run together."""
        gone = {one.place for one in several}
        self.spare += several
        self.found = [one for one in self.found if one.place not in gone]
        if len(several) > _NAMED:
            self.left.append(Left(f"{run}/checkpoint-*", f"{len(several)} checkpoints", f"checkpoints {why}"))
        else:
            self.left += [Left(one.place, "checkpoint", f"a checkpoint {why}") for one in several]


def _chosen(run: Path, several: list[Found]) -> tuple[Found, str]:
    ordered = sorted(several, key=_step)
    last = ordered[-1]
    for place in (run, last.folder):
        best = trainer_state(place).get("best_model_checkpoint")
        for one in ordered:
            if isinstance(best, str) and best.replace("\\", "/").rstrip("/").rpartition("/")[2] == one.folder.name:
                return one, "the best one by its trainer's state"
    return last, "the last one"


def _by_folder(names: Iterable[str]) -> Iterable[set[str]]:
    """The names of files that lie together."""
    found: dict[str, set[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        found.setdefault(folder, set()).add(last)
    return found.values()


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _step(found: Found) -> int:
    match = CHECKPOINT.fullmatch(found.folder.name)
    return int(match[1]) if match else 0


def trainer_state(folder: Path) -> dict[str, object]:
    """What a trainer of transformers records in ``trainer_state.json``; empty: nothing that can be read."""
    try:
        file = folder / "trainer_state.json"
        if file.stat().st_size > _MOST_STATE:
            return {}
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
