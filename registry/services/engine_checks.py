"""Whether an engine loads the composed adapter of a revision, from headers and configurations alone."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack

from sqlalchemy.orm import Session

from registry.catalogue.changes import engine_answers
from registry.catalogue.changes.engine_answers import KeptAnswer
from registry.catalogue.tree import revisions
from registry.engines.checking import check_limit, check_quantised, engine_check, not_composable
from registry.engines.parts import BaseFacts
from registry.engines.rules import ENGINES, RULES
from registry.errors import InvalidAdapterError, NotFoundError, UnavailableError
from registry.reference import Reference
from registry.schemas.artifacts import EngineCheck, Options
from registry.schemas.requests import CheckRequest
from registry.services.artifacts.inputs import Inputs
from registry.services.artifacts.opened import ask, open_asked
from registry.services.deployment import Deployment
from registry.services.lineage import LoadedPath, read_blob
from registry.transfer.model_files import CONFIG

log = logging.getLogger(__name__)


def check(deployment: Deployment, request: CheckRequest) -> EngineCheck:
    """Judge what ``fetch --for`` would write, before it is truncated. An answer by defaults is kept with the revision.

    Raises:
        NotFoundError: a reference names nothing.
        RetractedError: it contains a retracted revision.
        UsageError: ``ref`` is a base model, ``since`` is no ancestor, or the engine can't have such a limit.
    """
    found = _checked(deployment, request)
    if request.since is None and request.max_lora_rank is None and request.base_quantization is None:
        _keep(deployment, found)
    return found


def _checked(deployment: Deployment, request: CheckRequest) -> EngineCheck:
    limit = check_limit(request.engine, request.max_lora_rank)
    check_quantised(request.engine, request.base_quantization)
    options = Options(kind="lora", since=request.since, uniform=ENGINES[request.engine].uniform)
    asked = ask(deployment, request.ref, options)
    reference = asked.path.reference
    try:
        with open_asked(deployment, asked) as artifact:
            base = _facts(deployment, asked.path)
            return engine_check(
                reference,
                artifact,
                request.engine,
                limit,
                base=base,
                since=request.since,
                quantised=request.base_quantization,
            )
    except InvalidAdapterError as problem:
        if problem.code != "not_composable":
            raise
        return not_composable(reference, request.engine, str(problem), limit)


def _keep(deployment: Deployment, found: EngineCheck) -> None:
    """Keep the answer with the revision, for `show`."""
    codes = tuple(reason.code for reason in found.reasons)
    answer = KeptAnswer(found.engine, RULES[found.engine], codes, found.rank)

    def work(session: Session) -> None:
        revision_id = revisions.find(session, Reference.parse(found.reference)).id
        if answer not in engine_answers.kept(session, revision_id):
            engine_answers.keep(session, revision_id, answer)

    try:
        deployment.change(work)
    except (NotFoundError, UnavailableError) as error:  # deleted meanwhile; or a folder that may only be read
        log.debug("the answer of %s is not kept: %s", found.engine, error)


def _facts(deployment: Deployment, path: LoadedPath) -> BaseFacts:
    """What the base model's files say."""
    with ExitStack() as opened:
        table = Inputs(deployment.artifact_blobs, path, opened).table
    config = next((file for file in path.base.files if file.path == CONFIG), None)
    document = {} if config is None else json.loads(read_blob(deployment.artifact_blobs, config))
    kind = document.get("model_type")
    groups = {module: table.tie_group(module) for module in table.targets}
    ties = {module: [one for one in group if one != module] for module, group in groups.items() if len(group) > 1}
    return BaseFacts(kind if isinstance(kind, str) else None, ties)
