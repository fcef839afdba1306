"""The version of the distribution, and nothing else."""

__version__ = "0.6.0"
