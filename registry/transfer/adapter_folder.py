"""Reading a publish folder once, for publishing in process, publishing to a service, and previews.

Afterwards only the files' bytes are read again, to hash or send them. Needs neither torch nor a database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from registry.digest import sha256_digest
from registry.errors import InvalidAdapterError
from registry.folders.archives import Opened
from registry.folders.local_files import head_of, read_start
from registry.folders.quantised import sign_of_quantised
from registry.folders.receipts import derived_from
from registry.folders.scan import EXACT, PICKLED_WEIGHTS, READ_PICKLE, Form, FoundFile, adapter_folder, form_of
from registry.progress import Progress
from registry.schemas import DerivedFrom, LeftOut
from registry.schemas.artifacts import FourBits
from registry.schemas.transfer import GivenReceipt
from registry.transfer.claims import Head
from registry.transfer.source import Given, given_adapter
from registry.transfer.trained_on import (
    Beside,
    TrainedFolder,
    cached_parent,
    moved_folder,
    receipt_of_export,
    receipt_of_parent,
    trained_folder,
    trained_on,
)

MAX_CONFIG: Final = 8 << 20


@dataclass(frozen=True)
class AdapterFolder:
    """A snapshot of an adapter's folder."""

    given: Given
    config: bytes  # adapter_config.json, up to one byte beyond the limit
    header: bytes  # of the weights, with its length field; may be cut off
    weights: FoundFile
    saved: Path  # the weights as they were saved, by whose times folders are older or newer: these, or a pickle
    form: Form
    files: tuple[FoundFile, ...]  # all files of the adapter, configuration and weights included
    left_out: tuple[LeftOut, ...]
    trained_on: TrainedFolder | None  # to be compared with the parent
    receipt: GivenReceipt | None  # names the parent
    derived_from: DerivedFrom | None  # by the receipt beside the weights
    quantised: str | None  # the evidence that it was trained on quantised weights
    trained_quantised: FourBits | None  # how they were, as far as that is known
    beside: Beside | None = None  # whether `trained_on` was written later than the adapter
    sampled: bool = False  # samples of it are compared only, which prove nothing
    cached: str | None = None  # the only commit of the repository that it was trained on in this machine's cache

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(found.size for found in self.files)

    @property
    def head(self) -> Head:
        """The weights as a source of which only the header can be read."""
        return Head(self.form.weights, self.header, self.weights.size, InvalidAdapterError)

    def check(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Check the hashed files (digest and size by name) against the configuration read before, and the Hub.

        Raises:
            InvalidAdapterError: ``bad_config``, the configuration was changed meanwhile.
            IntegrityError: the files differ from the Hub's.
        """
        if files[self.form.config][0] != sha256_digest(self.config):
            raise InvalidAdapterError(
                f"{self.form.config} is not the one that was checked before: the file was changed in the meantime. "
                "Wait until nothing writes to it and add it again.",
                code="bad_config",
            )
        self.given.check(files)


def read_adapter(
    place: str | PathLike[str],
    *,
    receipt: Path | None,
    skip_parent_check: bool,
    look_in: Sequence[Path] = (),
    sampled: bool = False,
    trained_quantised: FourBits | None = None,
    before: Iterable[LeftOut] = (),
    opened: Opened | None = None,
    progress: Progress,
) -> AdapterFolder:
    """Read a publish folder; an archive is unpacked first, a repository of a Hub downloaded.

    Args:
        place: the folder, its archive, or ``hf:ORG/REPO[@REVISION]``.
        receipt: given by the user.
        look_in: folders in which the folder that it was trained on is searched, where it is not in its place.
        skip_parent_check: use neither a receipt nor the folder that it was trained on to find the parent.
        sampled: compare samples of that folder only.
        trained_quantised: how the weights were quantised that it was trained on, as the user says. None: as it shows.
        before: what was left out where this folder was made.
        opened: unpacks archives and reads pickles; None: these are refused.
        progress: of the download.

    Raises:
        NotFoundError, InvalidAdapterError: see `registry.folders.scan.adapter_folder` and
            `registry.transfer.trained_on.receipt_of_parent`; or what `registry.folders.hub.repository.bring` raises.
        UnavailableError: a file can't be read.
    """
    given = given_adapter(place, progress, opened)
    found = adapter_folder(given.folder, None if opened is None else opened.weights)
    by_name = {one.path: one for one in found.files}
    form = form_of(by_name)
    config = read_start(by_name[form.config].file, MAX_CONFIG + 1)
    # The configuration of an adapter from a Hub names a folder of another machine.
    loaded = None if given.source is not None else trained_folder(config, given.folder)
    if loaded is None and look_in:
        loaded = moved_folder(config, look_in)
    if loaded is not None and opened is not None:
        loaded = replace(loaded, words=opened.told(loaded.words))
    named, weights = loaded, by_name[form.weights]
    pickle = found.root / PICKLED_WEIGHTS if any(one.reason == READ_PICKLE for one in found.left_out) else None
    saved = pickle or weights.file
    if skip_parent_check:
        loaded = None
    beside = None if loaded is None else Beside.of(loaded, saved)
    proof = None if skip_parent_check else receipt_of_parent(receipt, loaded, saved, beside)
    if proof is None and not skip_parent_check:
        proof = receipt_of_export(found)
    derived, left_out = derived_from(found.root, [form.weights], given.with_left_out(found.left_out))
    sign = sign_of_quantised(found, None if named is None else named.place, trained_on(config))
    return AdapterFolder(
        given=given,
        config=config,
        header=head_of(by_name[form.weights].file),
        weights=weights,
        saved=saved,
        form=form,
        files=found.files,
        left_out=tuple(sorted([*left_out, *before], key=lambda left: left.path)),
        trained_on=loaded,
        beside=beside,
        sampled=sampled,
        receipt=proof,
        derived_from=derived,
        quantised=None if sign is None else sign.words,
        trained_quantised=trained_quantised or (None if sign is None or form is EXACT else sign.how),
        cached=None if given.source is not None or skip_parent_check else cached_parent(config, loaded),
    )
