"""Measurements behind every number in README: each module is a command, its result is committed in results/."""
