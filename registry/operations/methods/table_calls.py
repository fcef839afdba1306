"""What every method of a registry is made of: doing an operation of the table, and listing."""

from __future__ import annotations

from abc import ABC, abstractmethod

from registry.operations.operation import A, Item, Listing, Operation, R
from registry.progress import SILENT, Progress


class TableCalls(ABC):
    """A registry, as far as its methods need it."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where this registry is: a folder, a database (without its password), or the address of a service.

        Example:
            >>> with registry.connect("./my-registry") as mine:
            ...     print(mine.url)
            /...my-registry
        """

    @abstractmethod
    def _do(self, operation: Operation[R, A], request: R, progress: Progress = SILENT) -> A:
        """Do an operation of the table."""

    @abstractmethod
    def _list(self, listing: Listing[R, Item], request: R, limit: int | None = None) -> tuple[Item, ...]:
        """All items of a listing, or the first ``limit``."""

    def _before_writing(self) -> None:  # noqa: B027 - a service and a team's database are upgraded by their operators
        """What has to be done before something is published or changed: of a folder, its upgrade."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and files; the registry is not to be used afterwards.

        Example:
            >>> team.close()
        """
