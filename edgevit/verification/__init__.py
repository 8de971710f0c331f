"""Every artifact is executed and compared: checks, scores, layer by layer errors, quantization parameters."""
