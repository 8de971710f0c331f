"""Images in, tensors out: reading, exact preprocessing, postprocessing, labelled image sets."""
