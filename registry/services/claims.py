"""What a client says of the files that it wants to add, held against the rules that a folder is listed by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from registry.digest import is_digest, sha256_digest
from registry.errors import RegistryError, UsageError
from registry.folders.scan import MAX_FILES, reason_by_name
from registry.tensors.files.source import ByteSource
from registry.tensors.files.strict_json import shown
from registry.wire import FileClaim

_FORBIDDEN: Final = re.compile(r'[\x00-\x1f\\:*?"<>|\ud800-\udfff]')


def check_claims(files: Iterable[FileClaim], error: type[RegistryError]) -> dict[str, FileClaim]:
    """The files by name.

    Raises:
        error: ``path_traversal``, ``bad_config`` or ``pickle`` for a name that a folder could not have brought.
        UsageError: a digest that is none, a file named twice, one digest with two sizes.
    """
    found: dict[str, FileClaim] = {}
    sizes: dict[str, int] = {}
    for claim in files:
        _check_name(claim.path, error)
        if not is_digest(claim.digest):
            raise UsageError(f"{shown(claim.digest)} is not the digest of {claim.path}: sha256: and 64 hex digits are.")
        if claim.path in found:
            raise UsageError(f"The file {claim.path} is named twice; once is expected.")
        if sizes.setdefault(claim.digest, claim.size) != claim.size:
            raise UsageError(f"{claim.digest} is named with {sizes[claim.digest]} and with {claim.size} bytes.")
        found[claim.path] = claim
    if len(found) > MAX_FILES:
        raise error(f"{len(found)} files are named, at most {MAX_FILES} are expected.", code="bad_config")
    return dict(sorted(found.items()))


def _check_name(path: str, error: type[RegistryError]) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise error(f"File name {shown(path)} leads out of its folder.", code="path_traversal")
    if _FORBIDDEN.search(path):
        raise error(
            f"File name {shown(path)} can't be stored: none of \\ : * ? \" < > | are expected.", code="bad_config"
        )
    reason = reason_by_name(parts[-1]) or ("hidden" if any(part.startswith(".") for part in parts) else None)
    if reason is not None:
        raise error(
            f"File {shown(path)} does not belong to what is added ({reason}); leave it out.",
            code="pickle" if reason == "pickle" else "bad_config",
        )


def check_document(claims: Mapping[str, FileClaim], path: str, data: bytes) -> None:
    """Hold a document against the digest of its file.

    Raises:
        UsageError: it is another document, or there is no such file.
    """
    claim = claims.get(path)
    if claim is None or (claim.digest, claim.size) != (sha256_digest(data), len(data)):
        raise UsageError(f"The content of {path} does not have the digest that is named for it; send both anew.")


class Head:
    """The first bytes of a file that is elsewhere, as a `registry.tensors.files.source.ByteSource` of its full size."""

    def __init__(self, path: str, data: bytes, size: int, error: type[RegistryError]) -> None:
        self._path, self._data, self._size, self._error = path, data, size, error

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        stop = offset + len(buffer)
        if stop > len(self._data):
            raise self._error(
                f"{self._path} is not a valid safetensors file: of its header {len(self._data)} bytes were sent, and "
                f"it says that it has {stop}. Save it again with safetensors.",
                code="bad_safetensors",
            )
        buffer[:] = self._data[offset:stop]


class SameHead:
    """Call it with each chunk of a file: its first bytes have to be those that were checked before.

    Raises:
        error: ``bad_safetensors``, they are not.
    """

    def __init__(self, path: str, source: ByteSource, length: int, error: type[RegistryError]) -> None:
        self._path, self._error = path, error
        self._expected = bytearray(length)
        source.read_into(0, memoryview(self._expected))

    def __call__(self, offset: int, chunk: memoryview) -> None:
        expected = self._expected[offset : offset + len(chunk)]
        if expected and chunk[: len(expected)] != expected:
            raise self._error(
                f"The header of {self._path} is not the one that was checked before: the file was changed meanwhile. "
                "Wait until nothing writes to it and add it again.",
                code="bad_safetensors",
            )
