"""Base models: adding one, and remaking its target table."""
