"""Bytes by range, safetensors headers, hashed files, and JSON from strangers. Needs no torch."""
