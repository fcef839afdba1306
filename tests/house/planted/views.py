"""The views, the memory of a service, and what is kept in the store."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

COMMITS: Final = "tests/services/test_commits.py"
KEPT: Final = "tests/services/test_materialising.py"

VIEWS: Final = (
    Mutant("commit-of-any-revision", "services/commits.py", "revision.encode() + end", "end", COMMITS),
    Mutant(
        "commit-of-any-arithmetic",
        "services/commits.py",
        "return self.meaning(revision) + making(self.kind)",
        "return self.meaning(revision) + made_by(None)",
        "tests/hub/test_bytes.py",
    ),
    Mutant(
        "commit-of-any-view",
        "services/commits.py",
        '"view": "base" if self.path.is_base else self.kind',
        '"view": "base"',
        COMMITS,
    ),
    Mutant(
        "adapter-config-in-a-model",
        "hub/files.py",
        "return is_model and path.rpartition",
        "return not is_model and path.rpartition",
        "tests/hub/test_contract.py",
    ),
    Mutant(
        "missing-file-without-commit",
        "hub/files.py",
        '"EntryNotFound", commit=pinned.commit)',
        '"EntryNotFound")',
        "tests/hub/test_bytes.py",
    ),
    Mutant(
        "factors-of-another-plan",
        "tensors/path/kept_factors.py",
        '"factors", (self._plan, key)',
        '"factors", ("", key)',
        "tests/tensors/path/test_kept_factors.py",
    ),
    Mutant(
        "rows-of-another-blob",
        "storage/caching.py",
        'self._memory.get("rows", (self._key, index)',
        'self._memory.get("rows", ("", index)',
        "tests/storage/test_caching.py",
    ),
    Mutant(
        "kept-bytes-collected",
        "catalogue/collecting.py",
        ", aliased(MaterialisedFile).digest)",
        ")",
        KEPT,
    ),
    Mutant(
        "kept-for-ever",
        "catalogue/materialisations.py",
        'MaterialisationRecord.expires_at > bindparam("now", type_=UtcTime())',
        'MaterialisationRecord.created_at <= bindparam("now", type_=UtcTime())',
        KEPT,
    ),
    Mutant(
        "parent-by-a-moving-name",
        "services/hub_parent.py",
        "if len(named) == 1 and",
        "if named and",
        "tests/services/test_hub_parent.py",
    ),
    Mutant(
        "bytes-of-another-piece",
        "storage/caching.py",
        "[start - index * PIECE : stop - index * PIECE]",
        "[: stop - start]",
        "tests/storage/test_caching.py",
    ),
    Mutant(
        "wake-up-for-who-has-left",
        "http/admission.py",
        "if seat.held and not wish.done():",
        "if not wish.done():",
        "tests/api/test_turns.py",
    ),
    Mutant(
        "page-of-a-portal-in-a-file",
        "client/ranges.py",
        'elif answer.headers.get("content-length") != str(self._size):',
        "elif length > self._size:",
        "tests/client/test_ranges.py",
    ),
    Mutant(
        "foreign-folders-in-the-cache-removed",
        "folders/cache.py",
        "self.folder.glob(_NAMES)",
        'self.folder.glob("*")',
        "tests/folders/test_cache.py",
    ),
)
