"""The Hub-compatible views: a read-only Hub for each kind of artifact."""
