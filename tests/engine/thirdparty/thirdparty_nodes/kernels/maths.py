"""Not a kind: kernels are none."""


class Maths:
    """Not a kind."""
