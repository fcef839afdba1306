"""An engine as a sink: its own list of names says what leads where, and names are loaded and unloaded one by one.

A name that serves is never moved before the engine has taken the new revision under that revision's own name
(``PATH@4``): what it refuses changes nothing. Then the name is switched, as the kind of engine allows; in between it is
nobody's, and never another revision's or a mixture. Each revision has a folder of its own (`Revisions`), which the
engine has to see under the same path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from registry.errors import ConflictError, InvalidAdapterError, RegistryError, UsageError
from registry.follow.revisions import Revisions, reference_of

if TYPE_CHECKING:
    from registry.follow.sinks import Form
    from registry.operations.registry import Registry
    from registry.progress import Progress
    from registry.schemas.followed import Where

_LOOKS: Final = 8
"""Requests by which one engine is told from a balancer before several."""


class Engine(Protocol):
    """What following needs of one engine at one address; every method raises `UnavailableError` if it is away."""

    @property
    def url(self) -> str:
        """Its address, for sentences."""

    def process(self) -> str:
        """What tells this process from any other; raises UsageError for one that can't be followed."""

    def names(self) -> dict[str, str]:
        """The names of all its adapters, each with the folder that it was loaded from."""

    def load(self, name: str, folder: Path) -> None:
        """Load a folder under a name that is free; raises `InvalidAdapterError`: it refuses, and nothing changed."""

    def unload(self, name: str) -> None:
        """Forget a name; one that it does not have is no error."""

    def switch(self, name: str, folder: Path) -> None:
        """Unload a name and load another folder under it, so that no request ever gets a mixture."""

    def busy(self) -> frozenset[str]:
        """Names of requests that are not over, whether the names are still there or not, as far as it tells."""


class EngineSink:
    """A sink of one engine; see the module. Folders are brought to the room, which may be of several engines."""

    def __init__(self, engine: Engine, room: Revisions) -> None:
        self._engine: Final = engine
        self._room: Final = room
        self._names: dict[str, str] = {}  # as of this round: name -> folder, as the engine says
        self._process = ""
        self._former: set[str] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """See `Sink`; it is the room that is locked, for all engines at once."""
        yield

    def there(self) -> Mapping[str, str]:
        """See `Sink`. Names that were loaded from elsewhere are somebody else's.

        Raises:
            UsageError: several processes answer at this address, so that lists and unloads reach one at random.
        """
        self._check_process()
        self._room.read()
        self._names = self._engine.names()
        keys = {name: self._key(name) for name in self._names}
        return {name: reference_of(key) if self._room.has(key) else "" for name, key in keys.items() if key}

    def _check_process(self) -> None:
        found = [self._engine.process() for _ in range(1 if self._process else _LOOKS)]
        if len(set(found)) > 1 or found[0] in self._former:
            raise UsageError(
                f"Several processes answer at {self._engine.url}, so that what is loaded or listed there reaches one "
                "of them at random: name the engines themselves, such as by a headless service, whose addresses are "
                "followed one by one."
            )
        if self._process not in ("", found[0]):
            self._former.add(self._process)
        self._process = found[0]

    def _key(self, name: str) -> str:
        """The folder of the room that a name leads to; empty: it leads elsewhere."""
        folder = Path(self._names.get(name, ""))
        return folder.name if folder.parent == self._room.place and reference_of(folder.name) else ""

    def leads_to(self, name: str, where: Where, form: Form) -> bool:
        """See `Sink`."""
        brought = self._room.right(where, form)
        return brought is not None and self._key(name) == brought

    def bring(self, registry: Registry, where: Where, form: Form, progress: Progress) -> bool:
        """See `Sink`."""
        return self._room.bring(registry, where, form, progress, self._keys())

    def point(self, name: str, where: Where, form: Form) -> None:
        """See `Sink`. The engine takes the revision under its own name first, while the name serves what it does.

        Raises:
            ConflictError: somebody else loaded another folder under this name.
            InvalidAdapterError: the engine refuses the revision, and serves what it did.
        """
        key = str(self._room.right(where, form))
        folder, own = self._room.place / key, str(where.reference)
        self._room.use(key)
        if name not in self._names:
            self._engine.load(name, folder)
        elif not self._key(name):
            raise ConflictError(
                f"The engine at {self._engine.url} serves {name} from {self._names[name]}, which is not of this "
                f"follower's folder {self._room.folder}, and it stays; unload the name, or follow into that folder.",
                code="folder_taken",
            )
        elif own in self._names:  # by its number it is followed, too
            self._switch(name, folder)
        else:
            self._engine.load(own, folder)
            try:
                self._switch(name, folder)
            finally:
                with suppress(RegistryError):  # the next round sees a name that nobody follows
                    self._engine.unload(own)
        self._names[name] = str(folder)

    def _switch(self, name: str, folder: Path) -> None:
        before = Path(self._names.pop(name))
        try:
            self._engine.switch(name, folder)
        except InvalidAdapterError:  # what it took a moment ago; what is told is why
            with suppress(RegistryError):
                self._engine.load(name, before)
            raise

    def drop(self, name: str) -> None:
        """See `Sink`."""
        self._engine.unload(name)
        self._names.pop(name, None)

    def used(self) -> set[str]:
        """Folders of the room that this engine may still read, by its last list and by its requests."""
        ended = {name.partition("@")[0] for name in self._engine.busy() - self._names.keys()}
        return self._keys() | {key for key in self._room.all() if reference_of(key).partition("@")[0] in ended}

    def _keys(self) -> set[str]:
        return {self._key(name) for name in self._names} - {""}

    def sweep(self, now: float, keep_for: float) -> list[str]:
        """See `Sink`; the room is swept for all engines at once."""
        del now, keep_for
        return []
