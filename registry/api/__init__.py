"""The registry over HTTP: routes under ``/api/v1`` as thin wrappers of the services."""
