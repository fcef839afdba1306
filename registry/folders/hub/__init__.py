"""Reads repositories of a Hub, and writes exports to them."""
