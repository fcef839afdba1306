"""Other names for adapters and base models."""

from __future__ import annotations

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.schemas.renaming import RenameBaseRequest, Renamed, RenameRequest


class Naming(TableCalls):
    """Other names for adapters and base models; the old names go on."""

    def rename(self, path: str, name: str) -> Renamed:
        """Give an adapter and everything under it another last name.

        The parent stays, because it is what the adapter was trained on. Numbers, digests, metrics, annotations and
        unprotected tags are the same under the new name. The old one still names what it named, and names the new one
        to whoever uses it; nothing can be published to it, and lists leave it out.

        Args:
            path: the adapter.
            name: its new last name.

        Raises:
            NotFoundError: there is no such adapter.
            ConflictError: the new name is taken.
            UsageError: ``name`` is outside the grammar, or another parent.

        Example:
            >>> team.rename("llama/support", "help").renamed_to
            'llama/help'
            >>> team.resolve("llama/help/french").reference
            'llama/help/french@1'
        """
        return self._do(table.RENAME, asked(RenameRequest, path=path, name=name))

    def rename_base(self, name: str, new: str) -> Renamed:
        """Give a base model and all its adapters another name, as `rename` does.

        Args:
            name: the base model.
            new: its new name.

        Raises:
            NotFoundError: there is no such base model.
            ConflictError: the new name is taken.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.rename_base("llama", "llama-1b").renamed_to
            'llama-1b'
        """
        return self._do(table.RENAME_BASE, asked(RenameBaseRequest, name=name, new=new))
