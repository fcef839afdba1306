"""Objects in a bucket of an S3 store."""

from registry.storage.s3.driver import S3Driver

__all__ = ["S3Driver"]
