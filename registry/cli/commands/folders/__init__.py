"""The commands about several folders of this machine, or about what a folder is."""
