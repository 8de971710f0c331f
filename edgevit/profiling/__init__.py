"""Latency and memory on a device: job, runner, raw report, statistics."""
