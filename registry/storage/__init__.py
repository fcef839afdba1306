"""Bytes under their digests: object drivers (dumb) and the blob store above them (hashes, verifies, idempotent)."""
