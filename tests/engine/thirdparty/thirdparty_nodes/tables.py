"""A module that is no kind: it holds no class of its name."""

LIMIT = 3
