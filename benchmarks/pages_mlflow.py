"""A model of MLflow 3 with many versions, written in bulk. Runs in the environment of `benchmarks/peers.txt`.

python -m benchmarks.pages_mlflow URL COUNT
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
import time

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "ERROR"}

from mlflow import MlflowClient
from mlflow.store.model_registry.dbmodels import models
from sqlalchemy import create_engine, insert


def fill(url, count):
    """Write rows as `create_model_version` does."""
    MlflowClient(tracking_uri=url, registry_uri=url).search_registered_models(max_results=1)  # makes the tables
    engine, now = create_engine(url), int(time.time() * 1000)
    times = {"creation_time": now, "last_updated_time": now}
    versions = [
        {"name": "long", "version": version, "source": f"s3://bucket/long/{version}", **times}
        | {"storage_location": f"s3://bucket/long/{version}", "description": f"message of {version}"}
        for version in range(1, count + 1)
    ]
    with engine.begin() as connection:
        connection.execute(insert(models.SqlRegisteredModel), [{"name": "long", **times}])
        connection.execute(insert(models.SqlModelVersion), versions)
    engine.dispose()


if __name__ == "__main__":
    fill(sys.argv[1], int(sys.argv[2]))
