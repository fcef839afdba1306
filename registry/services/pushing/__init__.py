"""Pushes of Hub clients: commits whose files become revisions, cards and metrics."""
