"""Checking a client's claims about the files that it wants to add, by the rules for local folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.digest import is_digest, sha256_digest
from registry.errors import RegistryError, UsageError
from registry.files.source import ByteSource, BytesSource
from registry.files.strict_json import shown
from registry.folders.local_files import check_name, check_together
from registry.folders.scan import MAX_FILES, reason_by_name
from registry.reference import Reference
from registry.schemas import DerivedFrom
from registry.schemas.transfer import FileClaim


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
