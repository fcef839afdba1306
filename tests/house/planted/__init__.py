"""The list of bugs that are planted by hand: what somebody could believe is right, in whole sentences of the code.

`tests.house.mutants` plants them. What is one sign or a guard that is off is drawn by the syntax instead
(`tests.house.drawn`). The tests named are the narrowest that notice, mostly on bases that need no target table of a
transformers model, which takes seconds to make.
"""

from __future__ import annotations

from typing import Final

from tests.house.planted.arithmetic import ARITHMETIC, DELTAS, FACTORS, PATH
from tests.house.planted.bases import DECODED, DENOISERS, DENSE, ENGINES, FULL, NORMS, QUANTISED
from tests.house.planted.checks import CHECKS, EVIDENCE, NOTICES
from tests.house.planted.composed import COMBINED, COMPOSED, EXACT, FIDELITY, REBASED, TRUNCATION
from tests.house.planted.handed_out import DRAWN, REGISTRY, VERIFYING
from tests.house.planted.importing import IMPORTING, PUSHED, TRAINING
from tests.house.planted.mutant import Mutant
from tests.house.planted.pool import COMPILED, POOL
from tests.house.planted.services import FAULTS, RETENTION, SERVICES, USES, WORKERS
from tests.house.planted.upstream import NAMES, SHOWN, UPSTREAM, VERSIONS
from tests.house.planted.views import DRAWINGS, ORIGINS, PAGES, VIEWS

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: Final = (
    *ARITHMETIC,
    *PATH,
    *FACTORS,
    *DELTAS,
    *COMPOSED,
    *TRUNCATION,
    *COMBINED,
    *REBASED,
    *FIDELITY,
    *EXACT,
    *CHECKS,
    *EVIDENCE,
    *NOTICES,
    *QUANTISED,
    *DECODED,
    *NORMS,
    *DENSE,
    *DENOISERS,
    *FULL,
    *ENGINES,
    *REGISTRY,
    *VERIFYING,
    *DRAWN,
    *IMPORTING,
    *PUSHED,
    *TRAINING,
    *SERVICES,
    *RETENTION,
    *USES,
    *WORKERS,
    *FAULTS,
    *VIEWS,
    *PAGES,
    *ORIGINS,
    *DRAWINGS,
    *UPSTREAM,
    *VERSIONS,
    *SHOWN,
    *NAMES,
    *POOL,
    *COMPILED,
)
