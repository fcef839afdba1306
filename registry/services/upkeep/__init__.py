"""Upkeep of a registry: collection, checks, deletion, tokens."""
