"""Node kinds that only the tests use, found by entry point like any third party's."""
