"""Core ML, target `coreml`: an .mlpackage for iOS and macOS."""

from converters.coreml.converter import CONVERTER

__all__ = ["CONVERTER"]
