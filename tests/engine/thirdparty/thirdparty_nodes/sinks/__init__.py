"""Part of the test package."""
