"""TFLite, target `tflite`: a .tflite file for Android and boards, run by LiteRT."""

from converters.tflite.converter import CONVERTER

__all__ = ["CONVERTER"]
