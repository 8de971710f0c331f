"""Int8: which tensors are quantized, how quantization parameters are found, trained and written; pruning."""
