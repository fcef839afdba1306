"""What an artifact is to whoever reads it, wherever its bytes are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from registry.schemas import ArtifactKind, Truncation

if TYPE_CHECKING:
    import torch


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
