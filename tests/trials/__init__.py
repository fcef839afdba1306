"""Random trials: processes killed at any moment, races, and range requests held against the whole files.

``python -m tests.trials --seconds 600 --seed 7`` runs them for long, with ``--team`` on PostgreSQL and S3, and then
faults of S3 too; `test_trials` for seconds.
"""
