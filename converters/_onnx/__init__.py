"""Parts of the onnx converter."""
