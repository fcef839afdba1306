"""What every method of a registry is made of, doing an operation of the table; and what another registry asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from registry.errors import UsageError
from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.following import Following, Lost
from registry.operations.operation import A, Item, Listing, Operation, Part, R
from registry.progress import SILENT, Progress
from registry.schemas import BaseAdded, Published
from registry.schemas.parents import NarrowRequest, PathsLeft
from registry.schemas.requests import ReferenceRequest, SubtreeRequest
from registry.schemas.team import FollowRequest
from registry.schemas.transfer import (
    BaseCommit,
    BasePlan,
    BaseRequest,
    Bundle,
    PublishCommit,
    PublishPlan,
    PublishRequest,
)


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
    def _part(self, listing: Listing[R, Item], request: R, limit: int | None) -> Part[Item]:
        """All items of a listing, or the first ``limit``, with what is said about them."""

    def _list(self, listing: Listing[R, Item], request: R, limit: int | None = None) -> tuple[Item, ...]:
        """All items of a listing, or the first ``limit``."""
        return self._part(listing, request, limit).items

    @abstractmethod
    def _follow(self, request: FollowRequest, lost: Lost | None) -> Following:
        """Events as they come."""

    def _before_writing(self) -> None:  # noqa: B027 - a service and a team's database are upgraded by their operators
        """What has to be done before something is published or changed: of a folder, its upgrade."""

    @abstractmethod
    def close(self) -> None:
        """Release connections and files; the registry is not to be used afterwards.

        Example:
            >>> team.close()
        """


_REFERENCES: Final = 10_000
"""Of a subtree, on a page."""


class Partner(TableCalls):
    """What another registry asks of this one: paths as digests, and publishing what it sends."""

    def bundle(self, ref: str) -> Bundle:
        """A path as digests, with everything needed to compose or copy it."""
        return self._do(table.BUNDLE, asked(ReferenceRequest, ref=ref))

    def narrow(self, request: NarrowRequest, *, progress: Progress = SILENT) -> PathsLeft:
        """Which paths on a base model some weights may be those of, by samples of them."""
        return self._do(table.NARROW, request, progress)

    def subtree(self, path: str) -> tuple[str, ...]:
        """References of all revisions at and under a path, parents first."""
        found: list[str] = []
        while len(found) % _REFERENCES == 0:
            after = found[-1] if found else None
            try:
                page = self._do(table.SUBTREE, asked(SubtreeRequest, path=path, limit=_REFERENCES, after=after))
            except UsageError:
                if found:
                    raise
                # A service of protocol 3 knows no pages and refuses the limit.
                return self._do(table.SUBTREE, asked(SubtreeRequest, path=path))
            if not page:
                break
            found += page
        return tuple(found)

    def plan_publish(self, request: PublishRequest) -> PublishPlan:
        """Check everything except the weights, and report which bytes are missing."""
        return self._do(table.PLAN_PUBLISH, request)

    def plan_base(self, request: BaseRequest) -> BasePlan:
        """Check everything except the weights, and report which bytes are missing."""
        return self._do(table.PLAN_BASE, request)

    def commit_publish(self, commit: PublishCommit, *, progress: Progress = SILENT) -> Published:
        """Publish an adapter whose bytes are stored or uploaded."""
        return self._do(table.COMMIT_PUBLISH, commit, progress)

    def commit_base(self, commit: BaseCommit, *, progress: Progress = SILENT) -> BaseAdded:
        """Add a base model whose bytes are stored or uploaded."""
        return self._do(table.COMMIT_BASE, commit, progress)
