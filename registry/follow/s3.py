"""The sink ``s3=BUCKET/PREFIX``: a folder for each revision, for engines that load adapters from a bucket by name.

::

    PREFIX/llama--support--french@4/          the objects of a revision, never written again; its receipt comes last
    PREFIX/names/llama--support--french@prod  JSON: the reference, the digest, and the folder of what the name leads to
    PREFIX/unused/llama--support--french@3    the time since when no name leads there
    PREFIX/follower                           who brings revisions here, until when

A bucket knows no links. Who asks for a name reads its object, and loads the folder that it names; engines that load by
the name of a folder (Ray Serve LLM's ``dynamic_lora_loading_path``) are asked for ``llama--support--french@4``. Objects
of a revision are complete before a name leads to it.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from registry.distribution import need_whole
from registry.errors import ConflictError, NotFoundError, UnavailableError
from registry.folders.local_files import telling_unreadable
from registry.folders.receipts import read_receipt
from registry.folders.scan import RECEIPT
from registry.folders.staging import hold
from registry.follow.sinks import deep, fetched, flat
from registry.schemas.receipt import Receipt

if TYPE_CHECKING:
    from registry.follow.sinks import Form
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas.followed import Where
    from registry.storage.driver import ObjectInfo

_NAMES: Final = "names/"
_UNUSED: Final = "unused/"
_FOLLOWER: Final = "follower"
_LEASE: Final = 60.0
"""Seconds for which a follower has a place after it said so."""
_BETWEEN: Final = 60.0
"""Seconds between two readings of all that is there, to remove what nothing led to: it is a list of every object."""
_MOST: Final = 5 << 30
"""Bytes of an object that one request may write to S3."""
_TRIES: Final = 3
_TARGET: Final = frozenset({"reference", "digest", "folder"})
"""What the object of a name says; objects without it are not of a follower."""


class S3Sink:
    """See the module.

    Args:
        place: ``BUCKET/PREFIX``; address and credentials as everywhere for S3.
        clock: seconds since 1970, for the lease.

    Raises:
        UsageError: it names no bucket.
        UnavailableError: ``client_only``.
    """

    def __init__(self, place: str, clock: Any = time.time) -> None:
        need_whole("follow into a bucket of S3", ", or follow into a folder")
        from registry.storage.s3.bucket import Bucket

        self._bucket: Final = Bucket(f"s3://{place.rstrip('/')}")
        self._clock = clock
        self._id: Final = secrets.token_hex(8)
        self._until = 0.0
        self._read: dict[tuple[str, int, float], dict[str, str]] = {}  # names as they were written, by what is listed
        self._led: dict[str, dict[str, str]] = {}
        self._brought: dict[str, str] = {}  # folder -> what it was found to hold
        self._swept = -_BETWEEN

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Sink`. The lease is by clocks that are right within a few seconds; it is renewed in each round."""
        self._take()
        try:
            yield
        finally:
            self._bucket.delete(_FOLLOWER)

    def _take(self) -> None:
        now = self._clock()
        held = self._document(_FOLLOWER)
        if held is None and self._bucket.find(_FOLLOWER) is not None:
            raise ConflictError(
                f"{self._bucket.place}/{_FOLLOWER} is not of a follower, and stays as it is; follow into another "
                "prefix.",
                code="folder_taken",
            )
        if held is not None and held.get("id") != self._id and _time(held, "until") > now:
            raise ConflictError(
                f"Another `registry follow`, on {held.get('host')}, brings revisions to {self._bucket.place}; stop it, "
                f"or follow into another prefix. If it was killed, its place is free after {_LEASE:.0f} seconds.",
                code="folder_taken",
            )
        self._until = now + _LEASE
        self._write(_FOLLOWER, {"id": self._id, "host": socket.gethostname(), "until": f"{self._until:.3f}"})

    def there(self) -> Mapping[str, str]:
        """See `Sink`. A name is read again when its object has changed."""
        if self._clock() > self._until - _LEASE / 2 and self._until:
            self._take()
        listed = {(one.key, one.size, one.modified.timestamp()): one for one in self._bucket.objects(_NAMES)}
        known = {seen: self._read.get(seen) or self._document(seen[0]) for seen in listed}
        self._read = {seen: said for seen, said in known.items() if said is not None and said.keys() >= _TARGET}
        self._led = {deep(seen[0].removeprefix(_NAMES)): said for seen, said in self._read.items()}
        return {name: said.get("reference", "") for name, said in self._led.items()}

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """See `Sink`. A folder counts once this process has compared its receipt and the sizes of its objects."""
        return self._brought.get(_folder(where)) == _content(where, form) and self._led.get(name) == _target(where)

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """See `Sink`. Objects that are there already are not written again, and nothing else is overwritten.

        Raises:
            ConflictError: ``folder_taken``, the folder of this revision holds something else.
        """
        if self._brought.get(_folder(where)) == _content(where, form):
            return False
        for _ in range(_TRIES):
            answer = fetched(registry, where, form, None, progress)
            held = hold(Path(answer.folder))
            if held is None:  # the cache let it go meanwhile
                continue
            try:
                fresh = self._sent(Path(answer.folder), where)
            finally:
                held.release()
            self._brought[_folder(where)] = _content(where, form)
            return fresh
        raise UnavailableError(
            f"{where.reference} is removed from the cache as soon as it is fetched; raise REGISTRY_CACHE_SIZE."
        )

    def _sent(self, folder: Path, where: Where) -> bool:
        place = _folder(where)
        receipt = read_receipt(folder)
        there = {one.key: one.size for one in self._bucket.objects(f"{place}/")}
        old = self._document_text(f"{place}/{RECEIPT}") if f"{place}/{RECEIPT}" in there else None
        if old is not None and not _same(old, receipt):
            raise ConflictError(
                f"{self._bucket.place}/{place} holds {where.reference} in another form, or something else; follow into "
                "another prefix, or remove it if nothing reads it.",
                code="folder_taken",
            )
        files = [*sorted(file.path for file in receipt.files), RECEIPT]
        missing = [name for name in files if there.get(f"{place}/{name}") != (folder / name).stat().st_size]
        if missing:  # a mark before the first object: what is cut off here is removed some time, or goes on
            self._write(f"{_UNUSED}{place}", {"since": f"{self._clock():.3f}"})
        for name in dict.fromkeys([*missing, RECEIPT] if missing else ()):
            with telling_unreadable(folder / name), (folder / name).open("rb") as body:
                size = (folder / name).stat().st_size
                if size > _MOST:
                    raise UnavailableError(
                        f"{name} of {where.reference} has {size} bytes, and {_MOST} can be sent to S3."
                    )
                self._bucket.put(f"{place}/{name}", body, size)
        return bool(missing)

    def point(self, name: str, where: Where, form: Form) -> None:
        """See `Sink`."""
        del form  # one form for each prefix: `bring` refuses another
        self._write(f"{_NAMES}{flat(name)}", _target(where))
        self._bucket.delete(f"{_UNUSED}{_folder(where)}")
        self._led[name] = _target(where)

    def drop(self, name: str) -> None:
        """See `Sink`."""
        self._bucket.delete(f"{_NAMES}{flat(name)}")
        self._led.pop(name, None)

    def sweep(self, now: float, keep_for: float) -> list[str]:
        """See `Sink`. All objects are listed for it, once a minute at most."""
        if 0 <= now - self._swept < min(_BETWEEN, keep_for):
            return []
        self._swept = now
        used = {said.get("folder") for said in self._led.values()}
        objects: dict[str, list[ObjectInfo]] = {}
        for one in self._bucket.objects(""):
            objects.setdefault(one.key.partition("/")[0], []).append(one)
        marks = {one.key.removeprefix(_UNUSED) for one in objects.get(_UNUSED[:-1], ())}
        removed = []
        for folder in sorted(objects):
            if folder not in marks and f"{folder}/{RECEIPT}" not in {one.key for one in objects[folder]}:
                continue  # not of a follower
            if folder in used:
                if folder in marks:
                    self._bucket.delete(f"{_UNUSED}{folder}")
            elif folder not in marks:
                self._write(f"{_UNUSED}{folder}", {"since": f"{now:.3f}"})
            elif now - _time(self._document(f"{_UNUSED}{folder}") or {}, "since") >= keep_for:
                self._remove(folder, [one.key for one in objects[folder]])
                removed.append(deep(folder))
        for folder in marks - objects.keys():
            self._bucket.delete(f"{_UNUSED}{folder}")
        return removed

    def _remove(self, folder: str, keys: list[str]) -> None:
        """The receipt goes first and the mark last: what a removal that was cut off left is never taken for whole."""
        self._brought.pop(folder, None)
        for key in sorted(keys, key=lambda key: key != f"{folder}/{RECEIPT}"):
            self._bucket.delete(key)
        self._bucket.delete(f"{_UNUSED}{folder}")

    def _write(self, key: str, document: Mapping[str, str]) -> None:
        text = json.dumps(document, sort_keys=True).encode()
        self._bucket.put(key, text, len(text))

    def _document(self, key: str) -> dict[str, str] | None:
        """An object's JSON; None: it is gone, or no follower wrote it."""
        text = self._document_text(key)
        try:
            found = json.loads(text) if text is not None else None
        except ValueError:
            return None
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else None

    def _document_text(self, key: str) -> bytes | None:
        try:
            with self._bucket.told(key):
                return bytes(self._bucket.client.get_object(**self._bucket.at(key))["Body"].read())
        except NotFoundError:
            return None


def _time(document: Mapping[str, str], field: str) -> float:
    """A time in a document of ours; for ever, if somebody else wrote it: what it keeps is kept."""
    try:
        return float(document[field])
    except (KeyError, ValueError):
        return math.inf


def _folder(where: Where) -> str:
    return flat(str(where.reference))


def _content(where: Where, form: Form) -> str:
    return f"{where.digest} {form}"


def _target(where: Where) -> dict[str, str]:
    return {"reference": str(where.reference), "digest": str(where.digest), "folder": _folder(where)}


def _same(text: bytes, receipt: Receipt) -> bool:
    """Whether a text is a receipt of the same bytes of the same revision."""
    try:
        one = Receipt.model_validate_json(text)
    except ValidationError:
        return False
    return (one.rendering, one.reference, one.files) == (receipt.rendering, receipt.reference, receipt.files)
