"""Artifacts of a lineage: loading, building, describing, fetching and verifying."""
