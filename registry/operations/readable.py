"""What an artifact is to its reader, wherever its bytes are made.

The one that was opened last stays open, so that reading many modules opens it once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from registry.schemas import ArtifactKind, Truncation

if TYPE_CHECKING:
    import torch


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Release what it holds."""


T = TypeVar("T", bound=Closable)


@dataclass(eq=False)
class _Held(Generic[T]):
    key: object
    value: T
    users: int = 0
    dropped: bool = False


class LastOpened(Generic[T]):
    """Opens things by a key that names all that they are made of, and keeps the last one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: _Held[T] | None = None

    @contextmanager
    def of(self, key: object, make: Callable[[], T]) -> Iterator[T]:
        """What a key stands for; ``make`` opens it if it is not the last one."""
        with self._lock:
            held = self._last
            if held is None or held.key != key:
                held = _Held(key, make())
                self._drop()
                self._last = held
            held.users += 1
        try:
            yield held.value
        finally:
            with self._lock:
                held.users -= 1
                if held.dropped and not held.users:
                    held.value.close()

    def close(self) -> None:
        """Close what is open, or when its last user is done."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        held, self._last = self._last, None
        if held is not None:
            held.dropped = True
            if not held.users:
                held.value.close()


class ReadableFile(Protocol):
    """One file of an artifact.

    Example:
        >>> with team.artifact("llama/support") as artifact:
        ...     file = artifact.file("adapter_config.json")
        ...     file.read(0, 2)
        b'{\\n'
    """

    @property
    def path(self) -> str:
        """Its name, ``/``-separated."""

    @property
    def size(self) -> int:
        """Bytes."""

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes ``start`` to ``stop`` in order, in pieces."""

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes ``start`` to ``stop``, in memory."""


class ReadableArtifact(Protocol):
    """Named files that a reference stands for, wherever they are computed. Close it, or use it in a ``with`` block.

    Example:
        >>> with team.artifact("llama/support", kind="published") as artifact:
        ...     sorted(artifact.files)
        ['adapter_config.json', 'adapter_model.safetensors']
    """

    @property
    def kind(self) -> ArtifactKind:
        """published, lora or merged."""

    @property
    def rendering(self) -> str:
        """Digest that names the artifact's bytes."""

    @property
    def size(self) -> int:
        """Bytes of all files."""

    @property
    def files(self) -> Mapping[str, ReadableFile]:
        """The files by name."""

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about it."""

    @property
    def truncation(self) -> Truncation | None:
        """The report, where ranks were lowered."""

    def file(self, path: str) -> ReadableFile:
        """The file of that name; raises `NotFoundError`."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors of all weights, one by one, in the order of their bytes; needs torch.

        Example:
            >>> with team.artifact("llama/support") as artifact:
            ...     largest = max(tensor.abs().max() for name, tensor in artifact.tensors())
        """

    def close(self) -> None:
        """Release what it reads from."""

    def __enter__(self) -> ReadableArtifact: ...

    def __exit__(self, *exc: object) -> None: ...
