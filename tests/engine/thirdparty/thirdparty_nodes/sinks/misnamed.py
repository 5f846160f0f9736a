"""A kind whose class has the wrong name."""


class SomethingElse:
    """Not what the file is called."""
