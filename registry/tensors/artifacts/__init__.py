"""Named files whose bytes are made when they are read; merged models; plans and renderings."""
