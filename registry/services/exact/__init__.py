"""Full fine-tunes that are kept exactly: writing the file of one, and checking what somebody publishes as one."""
