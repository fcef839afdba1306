"""Rights: what a token allows. Direct access to a folder or a database is unrestricted.

A scope is a path: it covers that path and everything under it. Ancestors of a scope belong to the lineage, which is
read for composing, and are not visible otherwise. What a token may not see does not exist for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from registry.errors import NotAllowedError
from registry.reference import Path

Role = Literal["reader", "writer", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # each may do what those before it may


@dataclass(frozen=True)
class Rights:
    """A role and the scopes that it holds for; no scopes: everything."""

    role: Role
    scopes: tuple[Path, ...] = ()

    @property
    def unlimited(self) -> bool:
        """Whether every path is seen."""
        return not self.scopes

    def sees(self, path: Path) -> bool:
        """Whether a path exists for this token: it is at or under a scope, or the base model of one."""
        return self.covers(path) or (path.is_base and any(scope.base == path.base for scope in self.scopes))

    def covers(self, path: Path) -> bool:
        """Whether a path is at or under a scope."""
        return self.unlimited or any(_is_under(path, scope) for scope in self.scopes)

    def require(self, role: Role, what: str) -> None:
        """Refuse what the role does not allow; ``what`` completes "This token may not ...".

        Raises:
            NotAllowedError: naming the role that is needed.
        """
        if ROLES.index(self.role) < ROLES.index(role):
            raise NotAllowedError(f"This token may not {what}: that needs the role {role}, and it has {self.role}.")

    def allows(self, role: Role, path: Path) -> bool:
        """Whether the role is at least this one, if the scopes cover a path."""
        return ROLES.index(self.role) >= ROLES.index(role) and self.covers(path)

    def allows_everywhere(self, role: Role) -> bool:
        """Whether the role is at least this one, for the whole registry."""
        return ROLES.index(self.role) >= ROLES.index(role) and self.unlimited

    def require_on(self, role: Role, path: Path, what: str) -> None:
        """The same for a path, which has to be in scope.

        Raises:
            NotAllowedError: naming the role or the scopes.
        """
        self.require(role, what)
        if not self.covers(path):
            scopes = " and ".join(map(str, self.scopes))
            raise NotAllowedError(f"This token may not {what} at {path}: it is for {scopes} and what is under it.")

    def require_everywhere(self, role: Role, what: str) -> None:
        """The same for what concerns the whole registry.

        Raises:
            NotAllowedError: the token has scopes, or a smaller role.
        """
        self.require(role, what)
        if not self.unlimited:
            raise NotAllowedError(f"This token may not {what}: that needs a token without scopes.")


def _is_under(path: Path, scope: Path) -> bool:
    return path.base == scope.base and path.names[: len(scope.names)] == scope.names


@dataclass(frozen=True)
class Principal:
    """Who a request acts for: the name in events, its rights, and the client's address."""

    name: str
    rights: Rights
    token: str | None = None  # id of the token, never the secret
    source: str | None = None  # address of the client
    session: str | None = None  # digest of the secret of the session at the pages, of who signed in


UNLIMITED: Final = Rights("admin")
