import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgevit.data.image_io import as_rgb, composite_on_white, orient, read_image
from edgevit.errors import UsageError
from tests.contract.make_preprocess_goldens import FOLDER, load_cases, noise, read_array

CASES = load_cases()


def source_pixels(case):
    """Stored pixels of a golden case without the padding between its rows."""
    source = case["source"]
    height, width, channels = source["shape"]
    rows = np.fromfile(FOLDER / source["file"], np.uint8).reshape(height, source["row_stride"])
    return rows[:, : width * channels].reshape(height, width, channels)


def with_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("case", CASES["images"], ids=lambda case: case["name"])
def test_source_turns_into_golden_l0(case):
    np.testing.assert_array_equal(orient(source_pixels(case), case["orientation"]), read_array(case["l0"]))


def test_goldens_hold_every_orientation_and_padding():
    assert {case["orientation"] for case in CASES["images"]} == set(range(1, 9))
    assert any(case["source"]["row_stride"] > 3 * case["source"]["shape"][1] for case in CASES["images"])


@pytest.mark.parametrize("case", CASES["alpha"], ids=lambda case: case["name"])
def test_alpha_blends_into_golden_rgb(case):
    np.testing.assert_array_equal(composite_on_white(read_array(case["rgba"])), read_array(case["rgb"]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_orientation_equals_pillow_exif_transpose(tmp_path, orientation, suffix):
    stored = Image.fromarray(noise("exif", 7, 5, 3))
    path = saved(tmp_path, stored, f"turned.{suffix}", exif=with_orientation(orientation))
    tagged = stored.copy()
    tagged.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(read_image(path), np.asarray(ImageOps.exif_transpose(tagged)))
    np.testing.assert_array_equal(as_rgb(Image.open(path)), read_image(path))


@pytest.mark.parametrize("orientation", [0, 9])
def test_nonsense_orientation_tag_leaves_pixels_as_stored(tmp_path, orientation):
    pixels = noise("nonsense", 4, 6, 3)
    path = saved(tmp_path, Image.fromarray(pixels), exif=with_orientation(orientation))
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("orientation", [0, 9])
def test_orient_refuses_numbers_outside_1_to_8(orientation):
    with pytest.raises(UsageError, match=f"orientation {orientation}"):
        orient(noise("x", 2, 2, 3), orientation)


def test_oriented_jpeg_is_turned(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (16, 8), "red"), "photo.jpg", exif=with_orientation(6))
    assert read_image(path).shape == (16, 8, 3)


def test_phone_photo_with_several_frames_gives_its_first(tmp_path):
    first, second = Image.new("RGB", (16, 8), "red"), Image.new("RGB", (16, 8), "blue")
    path = saved(tmp_path, first, "phone.jpg", format="MPO", save_all=True, append_images=[second])
    assert Image.open(path).format == "MPO"
    red, _, blue = read_image(path)[4, 8]
    assert red > 250
    assert blue < 5


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_become_rgb_bytes(tmp_path, mode):
    image = Image.fromarray(noise("modes", 9, 11, 3)).convert(mode)
    pixels = read_image(saved(tmp_path, image))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_grey_is_replicated(tmp_path):
    grey = noise("grey", 3, 4)
    np.testing.assert_array_equal(read_image(saved(tmp_path, Image.fromarray(grey))), np.dstack([grey] * 3))


def test_rgba_and_grey_alpha_blend_on_white(tmp_path):
    rgba = noise("rgba", 6, 5, 4)
    image = Image.fromarray(rgba)
    np.testing.assert_array_equal(read_image(saved(tmp_path, image)), composite_on_white(rgba))
    grey_alpha = image.convert("LA")
    expected = composite_on_white(np.asarray(grey_alpha.convert("RGBA")))
    np.testing.assert_array_equal(read_image(saved(tmp_path, grey_alpha)), expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_transparent_colour_becomes_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), 0)
    transparency = (0, 0, 0) if mode == "RGB" else 0
    image.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 9)
    pixels = read_image(saved(tmp_path, image, transparency=transparency))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() != [255, 255, 255]


def test_transparent_pixels_are_white_and_opaque_ones_untouched():
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [0, 0, 0, 128]]], np.uint8)
    assert composite_on_white(rgba).tolist() == [[[255, 255, 255], [10, 20, 30], [127, 127, 127]]]


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (Image.new("CMYK", (4, 4)), "cmyk.jpg"),
        (Image.fromarray(np.full((4, 4), 40000, np.uint16)), "grey16.png"),
        (Image.new("I", (4, 4), 70000), "int32.tiff"),
        (Image.new("F", (4, 4), 0.5), "float.tiff"),
        (Image.new("LAB", (4, 4)), "lab.tiff"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_cmyk_and_deep_images_are_refused_with_fix(tmp_path, image, name):
    path = saved(tmp_path, image, name)
    with pytest.raises(UsageError, match=name) as caught:
        read_image(path)
    assert "8-bit RGB PNG or JPEG" in caught.value.fix
    with pytest.raises(UsageError):
        as_rgb(Image.open(path))


def test_16_bit_rgb_png_is_refused_though_pillow_would_cut_it_to_8(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(rgb16_png())
    assert Image.open(path).mode == "RGB"
    with pytest.raises(UsageError, match=r"deep\.png has more than 8 bits"):
        read_image(path)


def test_16_bit_planar_tiff_is_refused_though_pillow_would_read_noise(tmp_path):
    path = tmp_path / "planar.tiff"
    path.write_bytes(rgb16_planar_tiff())
    assert Image.open(path).mode == "RGB"
    with pytest.raises(UsageError, match=r"planar\.tiff has more than 8 bits"):
        read_image(path)


def rgb16_planar_tiff():
    """A 1x1 TIFF with one 16-bit plane per colour, which Pillow cannot write."""
    count = 9
    extra = 8 + 2 + count * 12 + 4  # behind the header and the directory: 3 depths, 3 offsets, 3 sizes, 3 pixels
    entries = [  # tag, type (3: 16 bit, 4: 32 bit), count, value or where the values are
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, 3, extra),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 3, extra + 6),
        (277, 3, 1, 3),
        (279, 4, 3, extra + 18),
        (284, 3, 1, 2),
    ]
    directory = struct.pack("<H", count) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    pixels = extra + 30
    values = struct.pack("<3H6I3H", 16, 16, 16, pixels, pixels + 2, pixels + 4, 2, 2, 2, 40000, 40000, 40000)
    return b"II*\0" + struct.pack("<I", 8) + directory + values


def rgb16_png():
    """A 1x1 PNG with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = zlib.compress(b"\x00" + struct.pack(">HHH", 1000, 2000, 3000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "gif"])
def test_truncated_file_is_refused_by_name(tmp_path, suffix):
    whole = io.BytesIO()
    Image.fromarray(noise("cut", 64, 64, 3)).save(whole, format={"jpg": "jpeg"}.get(suffix, suffix))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(UsageError, match=rf"cut\.{suffix}"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_file_without_image_is_refused(tmp_path, content):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"notes\.png is not an image"):
        read_image(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no image at .*absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(UsageError, match="cannot open"):
        read_image(tmp_path)


@pytest.mark.parametrize("limit", [99, 30])  # Pillow only warns up to twice the limit
def test_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    path = saved(tmp_path, Image.new("RGB", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UsageError, match=f"more than {limit} pixels"):
        read_image(path)


def test_errors_are_one_line(tmp_path):
    with pytest.raises(UsageError) as caught:
        read_image(tmp_path / "absent.png")
    assert "\n" not in str(caught.value)


def test_as_rgb_takes_paths_and_arrays(tmp_path):
    pixels = noise("array", 3, 5, 3)
    np.testing.assert_array_equal(as_rgb(pixels), pixels)
    np.testing.assert_array_equal(as_rgb(str(saved(tmp_path, Image.fromarray(pixels)))), pixels)
    np.testing.assert_array_equal(as_rgb(pixels[..., 0]), np.dstack([pixels[..., 0]] * 3))
    rgba = noise("array", 3, 5, 4)
    np.testing.assert_array_equal(as_rgb(rgba), composite_on_white(rgba))


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 4), np.uint8)[None],
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), bool),
        b"bytes",
        None,
    ],
    ids=repr,
)
def test_as_rgb_refuses_what_is_no_image(value):
    with pytest.raises(UsageError):
        as_rgb(value)
