"""Bytes on their way into the store."""
