"""The files that phones, boards and reports share: manifest, job, report, golden vectors. Schemas are in `schemas/`."""
