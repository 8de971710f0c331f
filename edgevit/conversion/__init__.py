"""From checkpoint to verified artifacts: `pipeline` chains the steps, a worker process per target, a cache."""
