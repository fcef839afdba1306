"""What engines that load adapters can load, and the lines that use a revision with each tool. Needs no torch."""
