"""The handlers of a registry in process, by the groups of the table of operations."""
