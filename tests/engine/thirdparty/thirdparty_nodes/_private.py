"""Not a kind: the name begins with an underscore."""


class _Private:
    """Not a kind."""
