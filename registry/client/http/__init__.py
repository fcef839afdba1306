"""Requests to a service: address, credentials, retry and errors."""
