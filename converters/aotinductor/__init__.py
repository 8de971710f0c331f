"""AOTInductor, target `aotinductor`: a compiled .pt2 package for servers."""

from converters.aotinductor.converter import CONVERTER

__all__ = ["CONVERTER"]
