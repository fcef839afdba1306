"""Following: what names point at is kept in place elsewhere."""
