"""Measurements beside their peers: each prints a table and writes JSON under ``benchmarks/results/``."""
