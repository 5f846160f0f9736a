"""The nodes that ship with streamflow: sources, processors, classifiers and sinks."""

FORK_SAFE = True
"""Importing any module of this package starts no thread, so the fork server may do it."""
