"""Nodes that only measure the engine. Found where `benchmarks/` is on PYTHONPATH."""
