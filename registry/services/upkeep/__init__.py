"""Keeping a registry: collection, checks, retraction, deletion, tokens."""
