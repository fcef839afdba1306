"""Full fine-tunes that are stored exactly: writing the file of one, and checking what somebody publishes as one."""
