"""Exact rewrites of a trained network for its runtimes: `pass_manager` runs `passes/`, `cost_model` decides."""
