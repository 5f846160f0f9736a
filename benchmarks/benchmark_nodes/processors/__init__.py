"""Processors that only measure the engine."""
