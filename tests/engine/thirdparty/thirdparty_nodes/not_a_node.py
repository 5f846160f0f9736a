"""A class of the right name that is no node."""


class NotANode:
    """Not a node."""
