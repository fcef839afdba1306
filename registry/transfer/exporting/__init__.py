"""Exporting a revision as a repository for a Hub: what goes out, and where it is written."""
