"""ExecuTorch, target `executorch`: a .pte lowered to XNNPACK for Android, iOS and boards."""

from converters.executorch.converter import CONVERTER

__all__ = ["CONVERTER"]
