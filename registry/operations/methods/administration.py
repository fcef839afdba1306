"""Running a registry: its tokens, its storage, its checks, its jobs."""

from __future__ import annotations

from collections.abc import Iterable

from registry.bars import progress_sink
from registry.operations import table
from registry.operations.arguments import asked, check_limit
from registry.operations.methods.calls import TableCalls
from registry.progress import Progress
from registry.rights import Role
from registry.schemas import BaseMeasured, Checked, Collected, Identity, Retabled, Token, TokenCreated
from registry.schemas.jobs import Health, Jobs, JobsRequest, OperationKind, OperationState
from registry.schemas.requests import (
    FsckRequest,
    GcRequest,
    MeasureBaseRequest,
    NoRequest,
    RetableRequest,
    RevokeRequest,
    TokenRequest,
)
from registry.schemas.team import Tokens


class Administration(TableCalls):
    """Running a registry: its tokens, its storage, its checks, its jobs."""

    def retable(self, name: str, *, progress: Progress | bool = False) -> Retabled:
        """Rebuild the target table of a base model, which changes the plans and commit ids of all its paths.

        Args:
            name: the base model.
            progress: True shows a bar.

        Raises:
            NotFoundError: the base model does not exist.
            ConflictError: ``retable_refused``: the new table would change the meaning of a revision.

        Example:
            >>> team.retable("llama").changed
            False
        """
        with progress_sink(progress) as sink:
            return self._do(table.RETABLE, asked(RetableRequest, base=name), sink)

    def measure_base(self, name: str, *, progress: Progress | bool = False) -> BaseMeasured:
        """Take the Frobenius norms of a base model's weights, which reads them once.

        Changes of revisions are reported relative to them. Base models have them when they are added; this is for those
        that were added by an earlier version, or whose target table was rebuilt.

        Args:
            name: the base model.
            progress: True shows a bar.

        Raises:
            NotFoundError: the base model does not exist.
            NotAllowedError: the token may not write to the base model.

        Example:
            >>> team.measure_base("llama").measured
            False
        """
        with progress_sink(progress) as sink:
            return self._do(table.MEASURE_BASE, asked(MeasureBaseRequest, base=name), sink)

    def gc(self, *, dry_run: bool = False, progress: Progress | bool = False) -> Collected:
        """Delete the blobs that nothing has needed for the grace period.

        Args:
            dry_run: only list what would be deleted.
            progress: True shows a bar.

        Raises:
            NotAllowedError: the token is not that of an admin without scopes.

        Example:
            >>> team.gc(dry_run=True)
            Collected(dry_run=True, uploads=0, bytes=0, kept_for_grace=0)
        """
        with progress_sink(progress) as sink:
            return self._do(table.GC, asked(GcRequest, dry_run=dry_run), sink)

    def fsck(self, *, deep: bool = False, progress: Progress | bool = False) -> Checked:
        """Check that every row has its blob and, with ``deep``, that every blob has its bytes.

        Args:
            deep: read all bytes, instead of only looking for them.
            progress: True shows a bar.

        Returns:
            What was checked. Damage is in ``damage``, and is no error.

        Raises:
            NotAllowedError: the token is not that of an admin without scopes.

        Example:
            >>> checked = team.fsck(deep=True)
            >>> checked.damage
            ()
        """
        with progress_sink(progress) as sink:
            return self._do(table.FSCK, asked(FsckRequest, deep=deep), sink)

    def jobs(
        self, *, state: OperationState | None = None, kind: OperationKind | None = None, limit: int | None = None
    ) -> Jobs:
        """Long operations of a service, newest first: those of the token, or everyone's for an admin without scopes.

        They are retained for a week after they ended.

        Args:
            state: only those in this state: ``"pending"``, ``"running"``, ``"done"`` or ``"failed"``.
            kind: only those of this kind. What the service looks at after a publish is listed with ``"notice"`` alone.
            limit: at most so many. None: all.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of.

        Example:
            >>> team.jobs(state="failed")
            ()
        """
        request = asked(JobsRequest, state=state, kind=kind)
        return Jobs(self._list(table.LIST_JOBS, request, check_limit(limit)))

    def health(self) -> Health:
        """How a service is: its replicas, its long operations, its storage, when it was last collected and checked.

        It is what the database reports: the processes that answer write a row of themselves every half minute. A
        registry that no service runs on has no replicas.

        Raises:
            NotAllowedError: the token is not that of an admin without scopes.

        Example:
            >>> health = team.health()
            >>> health.jobs.failed
            0
            >>> health.bytes > 0
            True
        """
        return self._do(table.HEALTH, NoRequest())

    def whoami(self) -> Identity:
        """The name and rights of the caller, and the versions of both sides.

        Example:
            >>> me = team.whoami()
            >>> me.role, me.scopes
            ('admin', ())
        """
        return self._do(table.WHOAMI, NoRequest())

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        """Create a token; its secret is only in this answer.

        Args:
            role: ``"reader"``, ``"writer"`` or ``"admin"``.
            name: who it is for, as events show it.
            scopes: paths that it is limited to, each with everything under it; they need not exist yet. None: the
                whole registry.
            expires_in: seconds until it expires. None: never.

        Raises:
            NotAllowedError: the caller is not an admin without scopes.
            UsageError: ``bad_name``, a scope is no path.

        Example:
            >>> created = team.create_token("writer", name="anna", scopes=["llama/support"], expires_in=90 * 86400)
            >>> created.token.scopes
            ('llama/support',)
            >>> secret = created.secret  # hand it over as you would a password
        """
        request = asked(TokenRequest, name=name, role=role, scopes=tuple(scopes), expires_in=expires_in)
        return self._do(table.CREATE_TOKEN, request)

    def tokens(self) -> Tokens:
        """All tokens, newest first; never their secrets.

        Raises:
            NotAllowedError: the caller is not an admin without scopes.

        Example:
            >>> created = team.create_token("reader", name="dashboard")
            >>> [token.name for token in team.tokens()][0]
            'dashboard'
        """
        return Tokens(self._list(table.TOKENS, NoRequest()))

    def revoke_token(self, token: str) -> Token:
        """Revoke a token immediately.

        Args:
            token: its id, as `tokens` lists it; not its secret.

        Raises:
            NotFoundError: the token does not exist.
            NotAllowedError: the caller is not an admin without scopes.

        Example:
            >>> created = team.create_token("reader", name="old laptop")
            >>> team.revoke_token(created.token.id).name
            'old laptop'
        """
        return self._do(table.REVOKE_TOKEN, asked(RevokeRequest, id=token))
