"""The list of planted bugs: one sign, one transposition, one missing scale, one skipped check each.

`tests.house.mutants` plants them. The tests named are the narrowest that notice, mostly on bases that need no target
table of a transformers model, which takes seconds to make.
"""

from __future__ import annotations

from typing import Final

from tests.house.planted.arithmetic import ARITHMETIC, FACTORS, PATH
from tests.house.planted.checks import CHECKS
from tests.house.planted.combined import COMBINED
from tests.house.planted.compiled import COMPILED
from tests.house.planted.composed import COMPOSED, TRUNCATION
from tests.house.planted.deltas import DELTAS
from tests.house.planted.dense import DENSE
from tests.house.planted.drawings import DRAWINGS
from tests.house.planted.drawn import DRAWN
from tests.house.planted.engines import ENGINES
from tests.house.planted.evidence import EVIDENCE
from tests.house.planted.exact import EXACT
from tests.house.planted.faults import FAULTS
from tests.house.planted.fidelity import FIDELITY
from tests.house.planted.full import FULL
from tests.house.planted.handed_out import REGISTRY
from tests.house.planted.importing import IMPORTING
from tests.house.planted.mutant import Mutant
from tests.house.planted.names import NAMES
from tests.house.planted.norms import NORMS
from tests.house.planted.notices import NOTICES
from tests.house.planted.origins import ORIGINS
from tests.house.planted.pages import PAGES
from tests.house.planted.pool import POOL
from tests.house.planted.pushed import PUSHED
from tests.house.planted.quantised import DECODED, QUANTISED
from tests.house.planted.rebased import REBASED
from tests.house.planted.retention import RETENTION
from tests.house.planted.services import SERVICES
from tests.house.planted.training import TRAINING
from tests.house.planted.upstream import UPSTREAM
from tests.house.planted.uses import USES
from tests.house.planted.verifying import VERIFYING
from tests.house.planted.versions import SHOWN, VERSIONS
from tests.house.planted.views import VIEWS
from tests.house.planted.workers import WORKERS

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: Final = (
    *ARITHMETIC,
    *PATH,
    *FACTORS,
    *CHECKS,
    *COMPOSED,
    *TRUNCATION,
    *REGISTRY,
    *NAMES,
    *NORMS,
    *ORIGINS,
    *PAGES,
    *NOTICES,
    *DELTAS,
    *FAULTS,
    *FIDELITY,
    *DENSE,
    *EVIDENCE,
    *EXACT,
    *FULL,
    *DRAWINGS,
    *DRAWN,
    *ENGINES,
    *REBASED,
    *PUSHED,
    *QUANTISED,
    *DECODED,
    *RETENTION,
    *IMPORTING,
    *TRAINING,
    *SERVICES,
    *UPSTREAM,
    *USES,
    *VERIFYING,
    *VIEWS,
    *VERSIONS,
    *SHOWN,
    *WORKERS,
    *POOL,
    *COMPILED,
    *COMBINED,
)
