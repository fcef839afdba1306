"""A publish folder, read once: what publishing here, publishing elsewhere and a preview are made of.

Of its files only the bytes are read later, where they are hashed or sent. Needs neither torch nor a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from registry.digest import sha256_digest
from registry.errors import InvalidAdapterError
from registry.folders.contents import head_of, read_start
from registry.folders.provenance import derived_from
from registry.folders.quantised import sign_of_quantised
from registry.folders.scan import ADAPTER_CONFIG, ADAPTER_WEIGHTS, FoundFile, adapter_folder
from registry.progress import Progress
from registry.schemas import DerivedFrom, LeftOut
from registry.schemas.transfer import GivenReceipt
from registry.transfer.claims import Head
from registry.transfer.source import Given, given_adapter
from registry.transfer.trained_on import TrainedFolder, receipt_of_parent, trained_folder

MAX_CONFIG: Final = 8 << 20


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter's folder as it was when it was read."""

    given: Given
    config: bytes  # adapter_config.json, at most one byte more of it than is allowed
    header: bytes  # of the weights, with its length field, as far as it is there
    weights: FoundFile
    files: tuple[FoundFile, ...]  # all that are taken, those two among them
    left_out: tuple[LeftOut, ...]
    trained_on: TrainedFolder | None  # what its parent is to be compared with
    receipt: GivenReceipt | None  # what names its parent
    derived_from: DerivedFrom | None  # what the receipt beside the weights says of them
    quantised: str | None  # what shows that it was trained on quantised weights

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(found.size for found in self.files)

    @property
    def head(self) -> Head:
        """The weights, of which the header alone can be read."""
        return Head(ADAPTER_WEIGHTS, self.header, self.weights.size, InvalidAdapterError)

    def check(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Hold the files that were hashed, digest and size by name, against what was read and what the Hub says.

        Raises:
            InvalidAdapterError: ``bad_config``, the configuration is another one by now.
            IntegrityError: they are not those that the Hub has.
        """
        if files[ADAPTER_CONFIG][0] != sha256_digest(self.config):
            raise InvalidAdapterError(
                f"{ADAPTER_CONFIG} is not the one that was checked before: the file was changed meanwhile. Wait until "
                "nothing writes to it and add it again.",
                code="bad_config",
            )
        self.given.check(files)


def read_adapter(
    place: str | PathLike[str], *, receipt: Path | None, skip_parent_check: bool, progress: Progress
) -> AdapterFolder:
    """Read a publish folder, brought here where it is a repository of a Hub.

    Args:
        place: the folder, or ``hf:ORG/REPO[@REVISION]``.
        receipt: the one that the user gave.
        skip_parent_check: neither a receipt nor the folder that it was trained on is asked for its parent.
        progress: of what is brought.

    Raises:
        NotFoundError, InvalidAdapterError: see `registry.folders.scan.adapter_folder` and
            `registry.transfer.trained_on.receipt_of_parent`; or what `registry.folders.hub.repository.bring` raises.
        UnavailableError: a file can't be read.
    """
    given = given_adapter(place, progress)
    found = adapter_folder(given.folder)
    by_name = {one.path: one for one in found.files}
    config = read_start(by_name[ADAPTER_CONFIG].file, MAX_CONFIG + 1)
    # What comes from a Hub names a folder of another machine.
    trained_on = None if given.source is not None else trained_folder(config, given.folder)
    proof = None if skip_parent_check else receipt_of_parent(receipt, trained_on)
    derived, left_out = derived_from(found.root, [ADAPTER_WEIGHTS], given.with_left_out(found.left_out))
    return AdapterFolder(
        given=given,
        config=config,
        header=head_of(by_name[ADAPTER_WEIGHTS].file),
        weights=by_name[ADAPTER_WEIGHTS],
        files=found.files,
        left_out=left_out,
        trained_on=None if skip_parent_check else trained_on,
        receipt=proof,
        derived_from=derived,
        quantised=sign_of_quantised(found, None if trained_on is None else trained_on.place),
    )
