"""What engines that load adapters can load: their rules as data, and what an adapter breaks of them. Needs no torch."""
