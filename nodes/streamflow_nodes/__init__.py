"""The nodes that ship with streamflow: sources, processors, classifiers and sinks.

What nodes share lies beside them, by topic: `events`, `audio`, `particles`, `networks`,
`linear_rnn` and `files`; loops over arrays are in `kernels`.
"""

FORK_SAFE = True
"""Importing any module of this package starts no thread, so the fork server may do it."""
