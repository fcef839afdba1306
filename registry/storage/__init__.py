"""Bytes under keys of their own: object drivers (dumb) and the blob store above them (hashes, verifies)."""
