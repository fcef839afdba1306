"""The Hub-compatible views: a read-only Hub for each form in which a path is handed out."""
