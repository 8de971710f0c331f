"""Files, Pillow images and arrays to L0 pixels: uint8 (H, W, 3), upright, without alpha.

L0 is where the preprocessing contract starts: apps and Python agree on every byte from here on.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgevit.errors import UsageError

ImageSource = str | os.PathLike[str] | Image.Image | np.ndarray

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# Formats whose decoders start other programs or drop bits unseen stay out. JPEG includes the MPO of some phones.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
_MASK_MODES = frozenset({"1", "L", "P"})
_ORIENTATION_TAG = 0x0112
_BITS_TAG = 258  # TIFF BitsPerSample, one number per channel
_SAVE_AS = "save it as an 8-bit RGB PNG or JPEG"

# What Pillow's decoders raise on damaged files, beside OSError for a truncated one.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode an image file to L0: uint8 (H, W, 3), orientation applied, alpha on white, grey replicated.

    The first frame of an animation counts; embedded colour profiles are ignored.
    Raises UsageError naming the file if it is missing, damaged, too large, CMYK or deeper than 8 bits.
    """
    with _opened(path, _FORMATS) as image:
        return _rgb_of(image, str(path))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of an image file once it is upright, from its header. Raises UsageError like `read_image`."""
    with _opened(path, _FORMATS) as image:
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in range(5, 9)
        return image.size if turned else image.size[::-1]


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode a mask file: uint8 (H, W), one class index per pixel, of a palette image the indices themselves.

    Raises UsageError naming the file for colours, alpha or more than 8 bits: they are no class index.
    """
    with _opened(path, ("PNG",)) as image:
        if image.mode not in _MASK_MODES:
            raise UsageError(
                f"mask {path} has {image.mode} pixels", fix="save class indices as 8-bit grey or palette PNG"
            )
        image.load()
        return np.array(image, np.uint8)


def as_rgb(image: ImageSource) -> np.ndarray:
    """L0 pixels, uint8 (H, W, 3), of a path, a Pillow image or a uint8 array (H, W), (H, W, 3) or (H, W, 4).

    Arrays are taken as upright, in RGB(A) order. Raises UsageError for anything else.
    """
    if isinstance(image, np.ndarray):
        return _rgb_of_array(image)
    if isinstance(image, Image.Image):
        with _naming("the image"):
            return _rgb_of(image, "the image")
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    raise UsageError(f"{type(image).__name__} is not an image", fix="give a path, a Pillow image or a uint8 array")


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply EXIF orientation 1-8 to stored pixels (H, W, ...): a permutation, contiguous like its input.

    The tag says where row 0 and column 0 of the stored pixels belong; 5-8 swap height and width.
    """
    if orientation not in range(1, 9):
        raise UsageError(f"EXIF orientation {orientation}", fix="it is a number from 1 to 8")
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def composite_on_white(rgba: np.ndarray) -> np.ndarray:
    """Blend uint8 (H, W, 4), alpha not premultiplied, over white: uint8 (H, W, 3), rounded to nearest."""
    colour = rgba[..., :3].astype(np.int32)
    alpha = rgba[..., 3:].astype(np.int32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


@contextmanager
def _opened(path: str | os.PathLike[str], formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """An image file, not yet decoded; what goes wrong with it is a UsageError. Threads may do this at once."""
    with _naming(Path(path)), Image.open(path, formats=formats) as image:
        # Pillow itself warns up to twice its limit: filters of warnings belong to all threads. None: a user lifted it.
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        yield image


@contextmanager
def _naming(name: Path | str) -> Iterator[None]:
    """Turn what Pillow and the file system raise into one UsageError that names the image."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"no image at {name}", fix="check the path") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"cannot open {name}: {error.strerror}", fix="give a readable image file") from error
    except UnidentifiedImageError as error:
        raise UsageError(f"{name} is not an image this tool reads", fix=_SAVE_AS) from error
    except Image.DecompressionBombError as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise UsageError(f"{name} has more than {limit}", fix="scale it down first") from error
    except _DAMAGE as error:
        raise UsageError(f"{name} is damaged or cut short: {error}", fix="copy or download it again") from error


def _rgb_of(image: Image.Image, name: str) -> np.ndarray:
    """L0 pixels of an opened Pillow image; refuses what cannot become 8-bit RGB without a choice of colours."""
    if image.mode not in _MODES or _is_deep(image):
        kind = "more than 8 bits per channel" if _is_deep(image) else f"{image.mode} pixels"
        raise UsageError(f"{name} has {kind}; only 8-bit grey, palette and RGB are read", fix=_SAVE_AS)
    # Pillow turns TIFFs upright while loading and drops their tag: ask for the orientation only afterwards.
    image.load()
    orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    if orientation not in range(1, 9):  # viewers ignore a nonsense tag and show the image as it is stored
        orientation = 1
    if image.has_transparency_data:
        pixels = composite_on_white(np.asarray(image.convert("RGBA")))
    else:
        pixels = np.array(image.convert("RGB"))
    return orient(pixels, orientation)


def _is_deep(image: Image.Image) -> bool:
    """True for 16-bit grey or float modes, and for 16-bit colour that Pillow would cut to 8 bits without a word."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return True
    # PNG: a tile's last field holds the decoder's raw format, such as "RGB;16B". Decoded images have no tiles left.
    raw_formats = [str(tile[3]) for tile in getattr(image, "tile", [])]
    # TIFF: its raw formats do not show when each colour has a plane of its own, the tag does.
    bits = getattr(image, "tag_v2", {}).get(_BITS_TAG, (8,))
    return any(";16" in raw for raw in raw_formats) or max(bits) > 8


def _rgb_of_array(pixels: np.ndarray) -> np.ndarray:
    """L0 pixels of a uint8 array: grey replicated, alpha on white, RGB returned as it is."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise UsageError(
            f"array {pixels.dtype} {pixels.shape} is not an image",
            fix="give uint8 values 0-255 of shape (H, W), (H, W, 3) or (H, W, 4)",
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if channels == 4:
        return composite_on_white(pixels)
    if channels != 3:
        raise UsageError(f"array {pixels.shape} has {channels} channels", fix="use 3 (RGB) or 4 (RGBA), channels last")
    return pixels
