"""Other names for adapters and base models."""

from __future__ import annotations

from registry.operations import table
from registry.operations.arguments import asked
from registry.operations.methods.table_calls import TableCalls
from registry.schemas.renaming import AlsoKnownAs, AlsoKnownAsRequest, RenameBaseRequest, Renamed, RenameRequest


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

    def also_known_as(self, name: str, repo_id: str, *, remove: bool = False) -> AlsoKnownAs:
        """Let a base model answer under another repo id in the Hub views, as it does under the repo it was taken from.

        An adapter that names the id as what it was trained on counts as trained on the base model.

        Args:
            name: the base model.
            repo_id: ``ORG/NAME``, as on a Hub; its first part is no base model.
            remove: take the id away instead.

        Returns:
            All repo ids of the base model that are not its path's.

        Raises:
            NotFoundError: there is no such base model, or ``remove`` and it does not have the id.
            ConflictError: the id is another's.
            NotAllowedError: the caller is no admin of the base model.

        Example:
            >>> team.also_known_as("llama", "unsloth/Llama-3.2-1B").repo_ids
            ('unsloth/Llama-3.2-1B',)
        """
        return self._do(table.ALSO_KNOWN_AS, asked(AlsoKnownAsRequest, name=name, repo_id=repo_id, remove=remove))
