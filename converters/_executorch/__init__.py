"""What the ExecuTorch converter does to the delegate's own graph."""
