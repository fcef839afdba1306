"""The revisions that the hashes in a picture name: by the digest of a file, or by the hash of its tensors alone.

The second is found by an annotation, which anybody who may annotate can write: so the tensors are read and hashed
before a revision is named. What was hashed once is remembered, since bytes under a digest never change.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from registry.catalogue.store import blobs as blob_rows
from registry.catalogue.tree.file_hashes import Named, having_file, saying_tensors
from registry.digest import BlobRef
from registry.errors import UsageError
from registry.folders.named_models import LEAST_DIGITS
from registry.images.hashes import tensors_hash
from registry.schemas.parents import HashesFound, HashFound
from registry.schemas.requests import MOST_HASHES, HashesRequest
from registry.services.deployment import Deployment

_MOST_READ: Final = 16
"""Files that are read for one request."""
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class _Weights:
    """A key of what is remembered."""

    digest: str
    blob: BlobRef = field(compare=False)
    deployment: Deployment = field(compare=False)


@lru_cache(maxsize=4096)
def _tensors_of(weights: _Weights) -> str:
    with closing(weights.deployment.open_blob(weights.blob)) as source:
        return tensors_hash(source)


def find_hashes(deployment: Deployment, request: HashesRequest) -> HashesFound:
    """Which revisions and base models each hash names; see `registry.operations.methods.publishing`.

    Raises:
        UsageError: one is no hash, or there are too many.
    """
    asked = list(dict.fromkeys(part.strip().lower() for part in request.hashes.split(",")))
    if len(asked) > MOST_HASHES or not all(map(_HASH.fullmatch, asked)):
        raise UsageError(f"Hashes of 8 to 64 hex digits are expected, at most {MOST_HASHES} with commas between them.")
    left, found = _MOST_READ, []
    for digits in asked:
        if len(digits) < LEAST_DIGITS:
            found.append(HashFound(hash=digits))
            continue
        with deployment.read() as session:
            named, said = having_file(session, digits), list(saying_tensors(session, digits))
            blobs = blob_rows.rows(session, {one.digest for one in said})
        read = sorted(blobs)[:left]
        left -= len(read)
        right = {
            digest for digest in read if _tensors_of(_Weights(digest, blobs[digest], deployment)).startswith(digits)
        }
        found.append(_found(digits, [*named, *(one for one in said if one.digest in right)]))
    return HashesFound(hashes=tuple(found))


def _found(digits: str, named: list[Named]) -> HashFound:
    return HashFound(
        hash=digits,
        references=tuple(dict.fromkeys(one.reference for one in named if not one.retracted)),
        retracted=tuple(dict.fromkeys(one.reference for one in named if one.retracted)),
    )
