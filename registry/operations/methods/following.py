"""What runs: reports of followers, and who asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from registry.operations import table
from registry.operations.arguments import asked, check_limit
from registry.operations.methods.calls import TableCalls
from registry.schemas.running import NameReport, Reported, ReportRequest, RunningRequest, RunningState, WhatRuns


class Following(TableCalls):
    """What followers keep at what names point at: folders and engines elsewhere."""

    def running(
        self,
        ref: str | None = None,
        *,
        state: RunningState | None = None,
        unserved: bool = False,
        limit: int | None = None,
    ) -> WhatRuns:
        """What followers serve of the names that they follow, and how far behind it is.

        A follower reports for itself. One whose lease has ended is listed as ``"lost"`` for a day.

        Args:
            ref: only names of adapters at and under a path, one name (``"llama/support@prod"``), or what follows or
                serves one revision (``"llama/support@3"``). None: all.
            state: only what is ``"in_place"``, ``"behind"``, ``"failed"`` or ``"lost"``.
            unserved: instead the names that nobody serves: tags that are protected by their name, and tags that are
                followed elsewhere.
            limit: at most so many. None: all.

        Returns:
            A tuple that a notebook shows as a table, and that ``.to_pandas()`` makes a data frame of: by name, then by
            follower; first the followers that follow nothing.

        Raises:
            NotFoundError: nothing is followed there, and nothing exists at ``ref``.

        Example:
            >>> from registry.schemas.running import NameReport
            >>> names = [NameReport(name="llama/support@prod", serves=1, wants=2)]
            >>> reported = team.report("0123456789abcdef" * 2, "folder", "folder=/models", names)
            >>> [(one.name, one.serves, one.state, one.follower.name) for one in team.running("llama/support")]
            [('llama/support@prod', 'llama/support@1', 'behind', 'folder=/models')]
        """
        request = asked(RunningRequest, ref=ref, state=state, unserved=unserved)
        return WhatRuns(self._list(table.RUNNING, request, check_limit(limit)))

    def report(
        self,
        id: str,  # noqa: A002 - as its field is called
        kind: str,
        name: str,
        names: Iterable[NameReport] = (),
        *,
        version: str = "",
        gone: bool = False,
    ) -> Reported:
        """Report, as a follower, what it serves now of all names that it follows; a name that is left out is forgotten.

        `registry.follow.reporting.Reporter` calls it as often as needed, and never raises.

        Args:
            id: 32 hexadecimal digits, random, made when the follower starts.
            kind: of the follower: ``"vllm"``, ``"folder"``.
            name: for people: where it keeps what.
            names: what it serves of each name, what it wants, and why it can't serve that; 1,000 at most.
            version: of the follower.
            gone: it ends, and is forgotten at once.

        Returns:
            For how long this counts, and when the next report is expected. Names outside the scopes of the token are
            ``left_out``: nothing is kept of them.

        Raises:
            UsageError: a name is malformed or given twice, or a text is too long.
            ConflictError: ``too_many_followers``.

        Example:
            >>> from registry.schemas.running import NameReport
            >>> names = [NameReport(name="llama/support@prod", serves=1, wants=2)]
            >>> team.report("0123456789abcdef" * 2, "folder", "folder=/models", names)
            Reported(lease=30.0, again=10.0)
        """
        request = asked(ReportRequest, id=id, kind=kind, name=name, names=tuple(names), version=version, gone=gone)
        return self._do(table.REPORT, request)
