"""The receipt: what was computed for a fetched folder, and the digests of the result.

It lies next to the artifact's files and is not one of them. When an adapter is trained on a folder fetched as
``merged``, publish reads from the receipt which revision is the parent. Other files may lie in the folder, too: those
that programs load together with the artifact's are reported.

What a receipt states about the weights in its folder is recorded as ``derived_from``, when a composed or truncated
adapter is published or a merged model is added as a base. That proves nothing, because the files may have been
overwritten.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from registry.digest import is_digest
from registry.errors import IntegrityError, NotFoundError, RegistryError, UsageError
from registry.figures import command
from registry.folders.foreign import no_folder
from registry.folders.local_files import reason, telling_unreadable
from registry.folders.scan import ADAPTER_CONFIG, RECEIPT, is_trainer_state
from registry.schemas import DerivedFrom, LeftOut
from registry.schemas.receipt import Receipt

_WEIGHTS: Final = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".npz", ".pkl", ".pickle"),
    *(".joblib", ".onnx", ".onnx_data", ".xml", ".dduf", ".tflite", ".exact"),
)
_CODE: Final = (".py", ".jinja")
_VOCABULARIES: Final = (".model", ".spm", ".bpe", ".codes", ".tiktoken", ".vocab")
_JSON: Final = re.compile(
    # configurations and indexes, of any part of a model or pipeline
    r".*(config|index|modules?|params|calibration|decision).*\.json"
    # tokenizers
    r"|.*(vocab|token|template).*\.json|(merges|emoji|tekken|normalizer|byte_maps|idf|word_.*|speaker_.*)\.json"
)
_TEXT: Final = re.compile(r"(vocab|merges|dict).*\.txt")
_OF_A_TRAINER: Final = re.compile(r"random_states_\d+\.pkl|user_content\.pt|dataset\.pt|train-batch\.pt")
_SOME: Final = 4
"""Names in a message."""
_ENTERED: Final = re.compile(r"additional_chat_templates|custom_generate|onnx|openvino|\d+_[A-Za-z]\w*")
"""Folders that are read without being named; the numbered ones are the modules of sentence-transformers."""


@dataclass(frozen=True)
class Beside:
    """What a folder holds that is not the artifact's: names, and of a folder that holds nothing else its name and /."""

    loaded: tuple[str, ...] = ()  # what programs load
    others: tuple[str, ...] = ()  # such as a trainer's checkpoints

    @property
    def names(self) -> tuple[str, ...]:
        """All of it."""
        return tuple(sorted((*self.loaded, *self.others)))


def beside(folder: Path, own: Iterable[str]) -> Beside:
    """What a folder holds in addition to the ``own`` files of an artifact and their receipt.

    Raises:
        OSError: the folder can't be read.
    """
    files = {RECEIPT, *own}
    found = sorted(_found(folder, "", files, _folders_of(files)))
    return Beside(
        tuple(name for name, is_loaded in found if is_loaded), tuple(name for name, is_loaded in found if not is_loaded)
    )


def _folders_of(files: Collection[str]) -> frozenset[str]:
    """The folders of some files, each with a / at its end."""
    return frozenset(name[: at + 1] for name in files for at, letter in enumerate(name) if letter == "/")


def _found(folder: Path, lead: str, own: Collection[str], holding: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Everything in a folder that is not its own, and whether it is loaded; ``lead``: the folder's name and /."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{lead}{entry.name}"
            if name in own:
                continue
            if not entry.is_dir():  # follows links, as programs do
                yield _spelt(name), is_loaded(entry.name)
            elif f"{name}/" in holding or (not lead and _ENTERED.fullmatch(entry.name)):
                yield from _found(Path(entry.path), f"{name}/", own, holding)
            else:
                yield f"{_spelt(name)}/", False


def is_loaded(name: str) -> bool:
    """Whether a file of this name, at the root of a model or adapter, is loaded with it."""
    name = name.lower()
    if name.startswith(".") or is_trainer_state(name) or _OF_A_TRAINER.fullmatch(name):
        return False
    return (
        name.endswith((*_WEIGHTS, *_CODE, *_VOCABULARIES))
        or _JSON.fullmatch(name) is not None
        or _TEXT.fullmatch(name) is not None
    )


def advice(loaded: Collection[str], what: str) -> str:
    """What the loaded files of something else mean for a folder of ``what``, and what to do: two clauses."""
    many = len(loaded) > 1
    of_adapter = any(name == ADAPTER_CONFIG or name.startswith("adapter_model.") for name in loaded)
    verb, them = ("are", "them") if many else ("is", "it")
    told = f"contains {named(loaded)}, which {verb} not of {what}, and programs that load the folder read {them}"
    if of_adapter:
        return f"{told}, an adapter on top of the weights: move the adapter into a folder of its own"
    return f"{told}: move {them} into another folder"


def named(names: Collection[str]) -> str:
    """A few names, and how many more follow."""
    some = sorted(names)[:_SOME]
    more = len(names) - len(some)
    return (
        f"{', '.join(some)} and {more} more" if more else " and ".join(filter(None, (", ".join(some[:-1]), some[-1])))
    )


def _spelt(name: str) -> str:
    """The name as valid UTF-8, even if the system's is not."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


MAX_RECEIPT: Final = 64 << 20


def read_receipt(file: Path, error: type[RegistryError] = IntegrityError) -> Receipt:
    """Read a receipt, or the receipt in a folder.

    Raises:
        NotFoundError: it does not exist.
        error: it is not a receipt.
    """
    try:
        file = file / RECEIPT if file.is_dir() else file
        with file.open("rb") as stream:
            data = stream.read(MAX_RECEIPT + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"There is no receipt {str(file)!r}; `registry fetch` writes one.", code="missing_file"
        ) from None
    except OSError as problem:
        raise error(f"The receipt {str(file)!r} can't be read: {reason(problem)}.") from None
    try:
        return Receipt.model_validate_json(data[:MAX_RECEIPT])
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise error(
            f"{file} is not a receipt of this registry: {where}: {first['msg']}. Fetch the folder again."
        ) from None


def receipt_in(folder: Path) -> Receipt:
    """The receipt in a folder that is to be verified.

    Raises:
        UsageError: it is of an export.
        NotFoundError, IntegrityError: as `read_receipt`.
    """
    with telling_unreadable(folder):
        if folder.is_file() and folder.name != RECEIPT:
            raise no_folder(folder)
        if not folder.exists():
            raise no_folder(folder, "; one that `registry fetch REF -o DIR` wrote is expected")
    receipt = read_receipt(folder)
    if receipt.exported is not None:
        raise UsageError(
            f"{folder} is an export, with a card and a configuration of its own: "
            f"{command('registry', 'publish', folder, 'PATH', '--dry-run')} checks its adapter, and "
            f"{command('registry', 'identify', folder)} a merged model."
        )
    return receipt


def write_receipt(receipt: Receipt) -> bytes:
    """Serialise a receipt."""
    return (receipt.model_dump_json(indent=2) + "\n").encode("utf-8")


_UNREADABLE = "receipt of a fetch that can't be read: its content is not recorded"


def derived_from(
    folder: Path, weights: Collection[str], left_out: Iterable[LeftOut]
) -> tuple[DerivedFrom | None, tuple[LeftOut, ...]]:
    """What the receipt next to some weights states about them, and the left-out files with their reasons updated.

    None: no receipt, or one about other files, since an adapter may be saved into a merged model's folder.
    """
    listed = tuple(left_out)
    told = tuple(one.model_copy(update={"reason": _UNREADABLE}) if one.path == RECEIPT else one for one in listed)
    if not (folder / RECEIPT).is_file():
        return None, listed
    try:
        receipt = read_receipt(folder)
    except RegistryError:
        return None, told
    if not weights or not set(weights) <= {file.path for file in receipt.files}:
        return None, listed
    try:
        return _said(receipt), listed
    except ValidationError:
        return None, told


def _said(receipt: Receipt) -> DerivedFrom:
    truncation, ranks = receipt.truncation, receipt.plan.ranks
    total = truncation.total if truncation else None
    return DerivedFrom(
        kind=receipt.kind,
        reference=None if is_digest(receipt.reference) else receipt.reference,  # of an export without names
        digest=receipt.tip or receipt.plan.base,
        since=receipt.since,
        since_digest=receipt.plan.since,
        links=tuple(link.revision for link in receipt.plan.links),
        weights=tuple(link.coefficient for link in receipt.plan.links) if receipt.weights else (),
        plan=receipt.plan_digest,
        dtype=receipt.plan.dtype,
        rank=max(ranks.values(), default=0) if ranks is not None else None,
        max_error=truncation.max_error if truncation else None,
        error=None if total is None else total.relative_frobenius if total.written is None else total.written,
    )
