"""Running a registry: its tokens, its storage, its checks."""

from __future__ import annotations

from collections.abc import Iterable

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.progress import SILENT, Progress
from registry.rights import Role
from registry.schemas import Checked, Collected, Identity, Retabled, Token, TokenCreated
from registry.schemas.requests import FsckRequest, GcRequest, NoRequest, RetableRequest, RevokeRequest, TokenRequest


class Administration(TableCalls):
    """Running a registry: its tokens, its storage, its checks."""

    def retable(self, name: str, *, progress: Progress = SILENT) -> Retabled:
        """Rebuild the target table of a base model, which changes the plans and commit ids of all its paths."""
        return self._do(table.RETABLE, asked(RetableRequest, base=name), progress)

    def gc(self, *, dry_run: bool = False, progress: Progress = SILENT) -> Collected:
        """Delete the blobs that nothing has needed for the grace period."""
        return self._do(table.GC, asked(GcRequest, dry_run=dry_run), progress)

    def fsck(self, *, deep: bool = False, progress: Progress = SILENT) -> Checked:
        """Check that every row has its blob and, with ``deep``, that every blob has its bytes."""
        return self._do(table.FSCK, asked(FsckRequest, deep=deep), progress)

    def whoami(self) -> Identity:
        """The name and rights of the caller, and the versions of both sides."""
        return self._do(table.WHOAMI, NoRequest())

    def create_token(
        self, role: Role, *, name: str = "", scopes: Iterable[str] = (), expires_in: int | None = None
    ) -> TokenCreated:
        """Create a token; ``expires_in`` in seconds. Its secret is only in this answer."""
        request = asked(TokenRequest, name=name, role=role, scopes=tuple(scopes), expires_in=expires_in)
        return self._do(table.CREATE_TOKEN, request)

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, newest first."""
        return self._list(table.TOKENS, NoRequest())

    def revoke_token(self, token: str) -> Token:
        """Revoke the token with this id immediately."""
        return self._do(table.REVOKE_TOKEN, asked(RevokeRequest, id=token))
