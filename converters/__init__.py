"""Targets that ship with edgevit: one file knows how to write, check and open one format."""
