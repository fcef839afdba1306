"""The SQL metadata: base models, adapters, revisions, tags, metrics, blobs, events.

The catalogue knows no tensors and no files, only records about them. It answers with `registry.schemas` if one
fits and with frozen dataclasses otherwise; no ORM object leaves the package. Functions take a session that
`registry.catalogue.database.database.Database` opened; they never commit.
"""
