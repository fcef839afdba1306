"""The request to publish an adapter: made of its folder, which is read once, and checked by its receiver.

It has names, digests and headers, without the weights. Publishing in process and over HTTP, previews, nested folders
and imports all begin here. Afterwards only the files' bytes are read again, to hash, store or send them. What a client
claims about its files is held to the rules for local folders. Needs neither torch nor a database, since clients use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from registry.digest import is_digest, sha256_digest
from registry.errors import InvalidAdapterError, RegistryError, UnavailableError, UsageError
from registry.files.source import ByteSource, BytesSource
from registry.files.strict_json import shown
from registry.folders.local_files import check_name, check_together, head_of, read_start
from registry.folders.lora_beside import LoraFacts
from registry.folders.quantised import sign_of_quantised
from registry.folders.receipts import derived_from
from registry.folders.scan import (
    EXACT,
    MAX_FILES,
    PICKLED_WEIGHTS,
    READ_PICKLE,
    Form,
    FoundFile,
    adapter_folder,
    form_of,
    reason_by_name,
)
from registry.operations.publication import Publication
from registry.progress import Progress
from registry.reference import Reference
from registry.schemas import DerivedFrom, FileEntry, PublishPreview
from registry.schemas.transfer import FileClaim, PublishPlan, PublishRequest
from registry.transfer.source import Given, HashedFiles, given_adapter, hash_files
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


def check_claims(files: Iterable[FileClaim], error: type[RegistryError]) -> dict[str, FileClaim]:
    """The files by name.

    Raises:
        error: ``path_traversal``, ``bad_config`` or ``pickle`` for a name that listing a folder would not give.
        UsageError: a malformed digest, a file named twice, one digest with two sizes.
    """
    found: dict[str, FileClaim] = {}
    sizes: dict[str, int] = {}
    for claim in files:
        _check_name(claim.path, error)
        if not is_digest(claim.digest):
            raise UsageError(
                f"{shown(claim.digest)} is not the digest of {claim.path}: sha256: and 64 hex digits are expected."
            )
        if claim.path in found:
            raise UsageError(f"The file {claim.path} is named twice; once is expected.")
        if sizes.setdefault(claim.digest, claim.size) != claim.size:
            raise UsageError(
                f"{claim.digest} is given with {sizes[claim.digest]} and with {claim.size} bytes; one size is expected."
            )
        found[claim.path] = claim
    if len(found) > MAX_FILES:
        raise error(f"{len(found)} files are named, at most {MAX_FILES} are expected.", code="bad_config")
    check_together(found, error)
    return dict(sorted(found.items()))


def _check_name(path: str, error: type[RegistryError]) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise error(f"File name {shown(path)} leads out of its folder.", code="path_traversal")
    check_name(path, error)
    reason = reason_by_name(parts[-1]) or ("hidden" if any(part.startswith(".") for part in parts) else None)
    if reason is not None:
        raise error(
            f"File {shown(path)} can't be added ({reason}); leave it out.",
            code="pickle" if reason == "pickle" else "bad_config",
        )


def check_document(claims: Mapping[str, FileClaim], path: str, data: bytes) -> None:
    """Check a document against the digest that is claimed for its file.

    Raises:
        UsageError: they differ, or no such file is claimed.
    """
    claim = claims.get(path)
    if claim is None or (claim.digest, claim.size) != (sha256_digest(data), len(data)):
        raise UsageError(f"The content of {path} does not match the digest given for it; send both again.")


class Head(BytesSource):
    """A source with a file's full size that has only its first bytes; the rest is not on this machine."""

    def __init__(self, path: str, data: bytes, size: int, error: type[RegistryError]) -> None:
        super().__init__(data, path)
        self._full_size, self._error = size, error

    @property
    def size(self) -> int:
        return self._full_size

    def beyond(self, start: int, stop: int) -> RegistryError:
        """The error for an incomplete header."""
        del start  # a header is read from its beginning
        return self._error(
            f"{self._what} is not a valid safetensors file: {len(self._data)} bytes of its header were sent, but it "
            f"says that it has {stop}. Copy, download or save it once more.",
            code="bad_safetensors",
        )


class SameHead:
    """A watch on the chunks of a file: its first bytes have to be the header that was checked before.

    Raises:
        error: ``bad_safetensors``, they differ.
    """

    def __init__(self, path: str, source: ByteSource, length: int, error: type[RegistryError]) -> None:
        self._path, self._error = path, error
        self._expected = bytearray(length)
        source.read_into(0, memoryview(self._expected))

    def __call__(self, offset: int, chunk: memoryview) -> None:
        expected = self._expected[offset : offset + len(chunk)]
        if expected and chunk[: len(expected)] != expected:
            raise self._error(
                f"The header of {self._path} is not the one that was checked before: the file was changed in the "
                "meantime. Wait until nothing writes to it and add it again.",
                code="bad_safetensors",
            )


def check_derivation(told: DerivedFrom | None) -> DerivedFrom | None:
    """A client's claim, after checking that its references are valid; raises `UsageError`."""
    for text in (told.reference, told.since) if told else ():
        if text is not None:
            _check_reference(text)
    return told


def _check_reference(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except RegistryError as problem:
        raise UsageError(
            f"The source that the adapter or model is derived from is not a reference: {problem}"
        ) from None
    if reference.number is None and not (reference.path.is_base and reference == Reference(reference.path)):
        raise UsageError(
            f"The source that the adapter or model is derived from is {text!r}, but PATH@N or a base model is expected."
        )


MAX_CONFIG: Final = 8 << 20


@dataclass(frozen=True)
class PublishFolder(HashedFiles):
    """An adapter's folder, and the request to publish it."""

    request: PublishRequest  # without its files, until they are hashed
    given: Given
    weights: FoundFile
    saved: Path  # the weights as they were saved, by whose times folders are older or newer: these, or a pickle
    form: Form
    files: tuple[FoundFile, ...]  # all files of the adapter, configuration and weights included
    trained_on: TrainedFolder | None  # to be compared with the parent
    beside: Beside | None = None  # whether `trained_on` was written later than the adapter
    sampled: bool = False  # samples of it are compared only, which prove nothing
    lora: LoraFacts | None = None  # of a LoRA file, whose configuration was made

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(found.size for found in self.files)

    @property
    def head(self) -> Head:
        """The weights as a source of which only the header can be read."""
        return Head(self.form.weights, self.request.header, self.weights.size, InvalidAdapterError)

    def with_request(self, **changes: object) -> PublishFolder:
        """The same files with another request."""
        return replace(self, request=self.request.model_copy(update=changes))

    def with_digests(self, progress: Progress) -> PublishFolder:
        """The same with the digests of all files; raises what `registry.transfer.source.hash_files` raises."""
        claims, hashed = hash_files("Hashing", self.given, self.files, progress)
        return replace(self, hashed=hashed).with_request(files=claims)

    def check(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Check the hashed files (digest and size by name) against the configuration read before, and the Hub.

        Raises:
            InvalidAdapterError: ``bad_config``, the configuration was changed meanwhile.
            IntegrityError: the files differ from the Hub's.
        """
        if files[self.form.config][0] != sha256_digest(self.request.config):
            raise InvalidAdapterError(
                f"{self.form.config} is not the one that was checked before: the file was changed in the meantime. "
                "Wait until nothing writes to it and add it again.",
                code="bad_config",
            )
        self.given.check(files)


def read_adapter(publication: Publication, progress: Progress) -> PublishFolder:
    """Read a publish folder; an archive is unpacked first, a repository of a Hub downloaded.

    Raises:
        NotFoundError, InvalidAdapterError: see `registry.folders.scan.adapter_folder` and
            `registry.transfer.trained_on.receipt_of_parent`; or what `registry.folders.hub.repository.bring` raises.
        UnavailableError: a file can't be read.
    """
    opened, skip, labels = publication.opened, publication.skip_parent_check, publication.labels
    given = given_adapter(publication.folder, progress, opened)
    found = adapter_folder(given.folder, opened)
    if publication.component is not None and (opened is None or not opened.made_config):
        raise UsageError(
            f"--component {publication.component} says what the names in a LoRA file mean, and {publication.folder} "
            "has an adapter_config.json: leave it out."
        )
    by_name = {one.path: one for one in found.files}
    form = form_of(by_name)
    config = read_start(by_name[form.config].file, MAX_CONFIG + 1)
    # The configuration of an adapter from a Hub names a folder of another machine.
    loaded = None if given.source is not None else trained_folder(config, given.folder)
    if loaded is None and publication.look_in:
        loaded = moved_folder(config, publication.look_in)
    if loaded is not None and opened is not None:
        loaded = replace(loaded, words=opened.told(loaded.words))
    named, weights = loaded, by_name[form.weights]
    pickle = found.root / PICKLED_WEIGHTS if any(one.reason == READ_PICKLE for one in found.left_out) else None
    saved = pickle or weights.file
    if skip:
        loaded = None
    beside = None if loaded is None else Beside.of(loaded, saved)
    proof = None if skip else receipt_of_parent(publication.receipt, loaded, saved, beside)
    if proof is None and not skip:
        proof = receipt_of_export(found)
    derived, left_out = derived_from(found.root, [form.weights], given.with_left_out(found.left_out))
    facts = None if opened is None else opened.facts(by_name[form.config].file)
    said = {} if facts is None else facts.annotations()
    beside_it = () if facts is None else facts.left_out
    sign = sign_of_quantised(found, None if named is None else named.place, trained_on(config))
    how = publication.trained_quantised or (None if sign is None or form is EXACT else sign.how)
    request = PublishRequest(
        path=str(publication.path),
        parent=publication.parent,
        receipt=proof,
        message=labels.message,
        metrics=dict(labels.metrics),
        tags=labels.tags,
        annotations={**said, **labels.annotations},
        config=config,
        header=head_of(weights.file),
        files=(),
        left_out=tuple(sorted([*left_out, *publication.left_out, *beside_it], key=lambda left: left.path)),
        source=given.source,
        skip_parent_check=skip,
        find_parent=publication.find_parent,
        derived_from=derived,
        quantised=None if sign is None else sign.words,
        trained_quantised=None if publication.extracted is not None else how,
        cached=None if given.source is not None or skip else cached_parent(config, loaded),
        nested=publication.nested,
        strict=publication.strict,
        extracted=publication.extracted,
    )
    sampled = publication.sampled
    return PublishFolder({}, request, given, weights, saved, form, found.files, loaded, beside, sampled, facts)


def preview(made: PublishFolder, plan: PublishPlan, registry: str, unchecked: Iterable[str]) -> PublishPreview:
    """What publishing a folder would do.

    Raises:
        UnavailableError: the service is too old to report that.
    """
    request = made.request
    if plan.digest is None or plan.rank is None or plan.parameters is None:
        raise UnavailableError(
            f"The registry at {registry} is older than this program and does not support --dry-run here; ask its "
            "operator to upgrade it, or publish without --dry-run, folder by folder.",
            code="other_version",
        )
    sizes = {claim.digest: claim.size for claim in request.files}
    return PublishPreview(
        path=request.path,
        reference=plan.existing,
        digest=plan.digest,
        parent=plan.parent,
        parent_digest=plan.parent_digest,
        parent_reason=plan.parent_reason,
        parent_known_by=plan.parent_known_by,
        rank=plan.rank,
        parameters=plan.parameters,
        size=sum(claim.size for claim in request.files),
        files=tuple(FileEntry(path=claim.path, size=claim.size, digest=claim.digest) for claim in request.files),
        left_out=request.left_out,
        missing=plan.missing,
        bytes_missing=sum(sizes.get(digest, 0) for digest in plan.missing),
        notices=plan.notices,
        unchecked=tuple(unchecked),
        source=request.source,
        registry=registry,
        extracted=request.extracted,
    )
