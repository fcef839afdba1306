"""Bytes by range, safetensors headers, dtypes, and JSON that strangers wrote: read strictly."""
