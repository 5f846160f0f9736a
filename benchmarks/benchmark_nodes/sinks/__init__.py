"""Sinks that only measure the engine."""
