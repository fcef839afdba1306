"""MLflow 3 as a side of the race: model versions, found by alias. Runs in the environment of `benchmarks/peers.txt`.

python -m benchmarks.service_mlflow URL FROM TO     fills its tables with model versions FROM to TO
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import random
import sys
import time

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.dbmodels import models
from sqlalchemy import create_engine, insert, text

EACH = 10  # versions of a model, as in `service_ours`
AT_ONCE = 10_000


def _client(url):
    return MlflowClient(tracking_uri=url, registry_uri=url)


def publisher(url, number, _revisions):
    """Make a new version of a model that this writer alone adds to; its files are somewhere already."""
    client, name, turn = _client(url), f"written-{number}", 0
    try:
        client.create_registered_model(name)
    except MlflowException as error:  # an earlier run made it
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    def work():
        nonlocal turn
        turn += 1
        client.create_model_version(name, f"s3://bucket/{name}/{turn}", description=f"message of {turn}")

    return work


def looker(url, number, revisions):
    """Find the version that an alias of some model means."""
    client, chance = _client(url), random.Random(number)

    def work():
        name = f"model-{chance.randrange(revisions // EACH):06d}"
        found = client.get_model_version_by_alias(name, "prod")
        assert int(found.version) == EACH

    return work


def fill(url, start, stop):
    """Write rows as `create_model_version` and `set_registered_model_alias` do, many at once."""
    _client(url).search_registered_models(max_results=1)  # makes the tables
    engine, now = create_engine(url), int(time.time() * 1000)
    times = {"creation_time": now, "last_updated_time": now}
    for first in range(start, stop, AT_ONCE):
        names = [f"model-{model:06d}" for model in range(first // EACH, min(stop, first + AT_ONCE) // EACH)]
        with engine.begin() as connection:
            connection.execute(insert(models.SqlRegisteredModel), [{"name": name, **times} for name in names])
            versions = [
                {"name": name, "version": version, "source": f"s3://bucket/{name}/{version}", **times}
                | {"storage_location": f"s3://bucket/{name}/{version}", "description": f"message of {version}"}
                for name in names
                for version in range(1, EACH + 1)
            ]
            connection.execute(insert(models.SqlModelVersion), versions)
            aliases = [{"name": name, "alias": "prod", "version": EACH} for name in names]
            connection.execute(insert(models.SqlRegisteredModelAlias), aliases)
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
