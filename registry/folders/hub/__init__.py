"""Repositories of a Hub, brought to this machine."""
