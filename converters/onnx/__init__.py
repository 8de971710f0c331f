"""ONNX, target `onnx`: an .onnx file for servers."""

from converters.onnx.converter import CONVERTER

__all__ = ["CONVERTER"]
