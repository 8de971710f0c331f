"""Nothing of machine learning: atomic files, processes, optional libraries, provenance of a run."""
