"""The captured fx graph: capture, editing, symbolic batch, intermediate outputs."""
