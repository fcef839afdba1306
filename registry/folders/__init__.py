"""Folders on this machine: which files of one are taken, how one is filled, and the receipt that lies in it."""
