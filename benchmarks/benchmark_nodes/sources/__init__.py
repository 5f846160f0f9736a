"""Sources that only measure the engine."""
