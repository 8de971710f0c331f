import struct

import numpy as np
import pytest
from PIL import Image

from edgevit.data.preprocess import (
    Geometry,
    apply_geometry,
    axis_taps,
    center_crop_offset,
    crop,
    geometry,
    normalize_table,
    preprocess,
    quantize_tensor,
    resize,
    resized_size,
    to_pixels,
    to_tensor,
)
from edgevit.errors import QuantizationError, UsageError
from edgevit.spec import Interpolation, Layout, Preprocess
from tests.contract.make_preprocess_goldens import FOLDER, checker, load_cases, noise, read_array, write_goldens

CASES = load_cases()
PILLOW = {Interpolation.BILINEAR: Image.Resampling.BILINEAR, Interpolation.BICUBIC: Image.Resampling.BICUBIC}


def golden(section):
    return pytest.mark.parametrize("case", CASES[section], ids=lambda case: case["name"])


def spec_of(case):
    fields = case["preprocess"]
    return Preprocess(
        resize=fields["resize"],
        crop=tuple(fields["crop"]),
        mean=tuple(fields["mean"]),
        std=tuple(fields["std"]),
        interpolation=Interpolation(fields["interpolation"]),
    )


@golden("images")
def test_geometry_equals_golden(case):
    assert geometry(*case["l0"]["shape"][:2], spec_of(case)) == Geometry(**case["geometry"])


@golden("images")
def test_l1_equals_golden(case):
    pixels = apply_geometry(read_array(case["l0"]), Geometry(**case["geometry"]), spec_of(case).interpolation)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, read_array(case["l1"]))


@golden("images")
def test_l2_equals_golden_bits(case):
    spec = spec_of(case)
    for entry in case["l2"]:
        tensor = preprocess(read_array(case["l0"]), spec, Layout(entry["layout"]))
        if entry["dtype"] == "int8":
            tensor = quantize_tensor(tensor, entry["scale"], entry["zero_point"])
        assert tensor.dtype == entry["dtype"]
        assert tensor.shape == tuple(entry["shape"])
        assert tensor.tobytes() == read_array(entry).tobytes()


@golden("tables")
def test_normalize_table_equals_golden_bits(case):
    table = normalize_table(tuple(case["mean"]), tuple(case["std"]))
    assert table.dtype == np.float32
    assert table.tobytes() == read_array(case).tobytes()


@golden("quantize")
def test_quantize_equals_golden(case):
    quantized = quantize_tensor(np.array(case["values"], np.float32), case["scale"], case["zero_point"])
    assert quantized.dtype == np.int8
    assert quantized.tolist() == case["expected"]


def test_goldens_on_disk_are_what_the_generator_writes(tmp_path):
    write_goldens(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert sorted(written) == sorted(stored)
    assert [name for name in written if written[name] != stored[name]] == []


def test_goldens_tell_interpolations_and_layouts_apart():
    names = {case["name"]: case for case in CASES["images"]}
    bilinear = names["checker_down_bilinear"]
    other = apply_geometry(read_array(bilinear["l0"]), Geometry(**bilinear["geometry"]), Interpolation.BICUBIC)
    assert (other != read_array(bilinear["l1"])).any()
    assert {(entry["layout"], entry["dtype"]) for entry in names["variants_bicubic"]["l2"]} == {
        (layout, dtype) for layout in ("NCHW", "NHWC") for dtype in ("float32", "int8")
    }


@pytest.mark.parametrize("interpolation", Interpolation)
def test_resize_equals_pillow_one_axis_at_a_time(interpolation):
    rng = np.random.default_rng(20240607)
    for number in range(90):
        height, width, new_height, new_width = (int(value) for value in rng.integers(1, 80, 4))
        if number % 9 == 0:  # strong reduction of tall images: where Pillow 13 would go vertical first
            height, new_height = 300 + number, 7
        if number % 7 == 0:
            new_width = width
        pixels = checker(height, width, 2) if number % 3 == 0 else noise(f"random{number}", height, width, 3)
        wide = Image.fromarray(pixels).resize((new_width, height), PILLOW[interpolation])
        expected = np.asarray(wide.resize((new_width, new_height), PILLOW[interpolation]))
        np.testing.assert_array_equal(resize(pixels, (new_height, new_width), interpolation), expected)


def test_horizontal_first_differs_from_vertical_first():
    pixels = noise("order", 120, 30, 3)
    turned = resize(pixels.swapaxes(0, 1), (13, 17), Interpolation.BICUBIC).swapaxes(0, 1)
    assert (resize(pixels, (17, 13), Interpolation.BICUBIC) != turned).any()


def test_resize_to_same_size_copies():
    pixels = noise("same", 9, 7, 3)
    result = resize(pixels, (9, 7), Interpolation.BICUBIC)
    np.testing.assert_array_equal(result, pixels)
    assert not np.shares_memory(result, pixels)


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (20, 20), (300, 33)])
def test_window_equals_crop_of_whole_resize(interpolation, height, width):
    pixels = noise("window", height, width, 3)
    where = geometry(height, width, Preprocess(resize=21, crop=(16, 18)))
    whole = resize(pixels, (where.resized_height, where.resized_width), interpolation)
    np.testing.assert_array_equal(apply_geometry(pixels, where, interpolation), crop(whole, where))


def test_extreme_aspect_ratio_needs_no_memory_for_what_is_cropped_away():
    line = noise("line", 1, 20_000, 3)  # resized it would be 224 x 4 480 000
    assert preprocess(line, Preprocess.for_input(224)).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("interpolation", Interpolation)
@pytest.mark.parametrize(("n", "m"), [(1, 9), (9, 1), (4000, 256), (97, 98), (98, 97)])
def test_weights_sum_to_one_within_rounding(interpolation, n, m):
    taps = axis_taps(n, m, interpolation)
    totals = taps.weights.astype(np.int64).sum(axis=1)
    assert np.abs(totals - 2**22).max() <= taps.weights.shape[1]
    assert taps.index.min() >= 0
    assert taps.index.max() < n


def test_bilinear_doubling_mixes_3_to_1():
    taps = axis_taps(2, 4, Interpolation.BILINEAR)
    one = 2**22
    assert taps.weights[1].tolist() == [one * 3 // 4, one // 4]
    doubled = resize(np.array([[[0], [200]]], np.uint8), (1, 4), Interpolation.BILINEAR)
    assert doubled.ravel().tolist() == [0, 50, 150, 200]


def test_bicubic_overshoot_is_clamped():
    edges = resize(checker(4, 40, 8), (4, 90), Interpolation.BICUBIC)
    assert edges.min() == 0
    assert edges.max() == 255
    grey = resize(np.repeat(checker(1, 40, 8) // 2 + 60, 4, axis=0), (4, 90), Interpolation.BICUBIC)
    assert grey.min() < 60  # overshoots on both sides, so 0 and 255 above were clamped
    assert grey.max() > 187


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (427, 640, 256, (256, 383)),  # rounding would give 384
        (640, 427, 256, (383, 256)),
        (300, 300, 224, (224, 224)),
        (1, 50, 8, (8, 400)),
        (3000, 4000, 224, (224, 298)),
    ],
)
def test_long_side_is_rounded_down(height, width, short_side, expected):
    assert resized_size(height, width, short_side) == expected


@pytest.mark.parametrize(("margin", "offset"), [(0, 0), (1, 0), (2, 1), (3, 2), (5, 2), (7, 4), (31, 16), (33, 16)])
def test_crop_offset_rounds_halves_to_even(margin, offset):
    assert center_crop_offset(margin) == offset


def test_normalize_table_entries():
    table = normalize_table((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert table.shape == (3, 256)
    value = np.float32(np.float32(np.float32(77) / np.float32(255)) - np.float32(0.456)) / np.float32(0.224)
    assert struct.pack("<f", table[1, 77]) == struct.pack("<f", value)
    by_reciprocal = (np.arange(256, dtype=np.float32) * np.float32(1 / 255) - np.float32(0.485)) / np.float32(0.229)
    assert (table[0] != by_reciprocal).sum() > 50  # the order of operations is visible in the bits


def test_layouts_hold_the_same_values():
    pixels = noise("layout", 4, 5, 3)
    table = normalize_table((0.0, 0.1, 0.2), (1.0, 0.5, 0.25))
    nchw, nhwc = to_tensor(pixels, table, Layout.NCHW), to_tensor(pixels, table, Layout.NHWC)
    assert nchw.shape == (1, 3, 4, 5)
    assert nhwc.shape == (1, 4, 5, 3)
    assert nchw.flags.c_contiguous
    assert nhwc.flags.c_contiguous
    assert nchw[0, 2, 3, 1] == nhwc[0, 3, 1, 2] == table[2, pixels[3, 1, 2]]
    with pytest.raises(UsageError, match="FLAT"):
        to_tensor(pixels, table, Layout.FLAT)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_quantize_refuses_scale_that_is_not_positive(scale):
    with pytest.raises(QuantizationError, match="scale"):
        quantize_tensor(np.zeros(3, np.float32), scale, 0)


def test_sizes_below_one_pixel_are_refused():
    with pytest.raises(UsageError):
        resized_size(0, 5, 8)
    with pytest.raises(UsageError):
        axis_taps(5, 0, Interpolation.BILINEAR)
    with pytest.raises(UsageError):
        axis_taps(5, 4, Interpolation.BILINEAR, window=(2, 5))


def test_every_byte_comes_back_from_its_normalised_value():
    table = normalize_table((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)
    assert np.array_equal(to_pixels(to_tensor(image, table, Layout.NCHW), table), image)


@pytest.mark.parametrize("value", [np.nan, np.inf, 5.0, 0.01])
def test_tensor_without_an_image_is_refused(value):
    table = normalize_table((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tensor = to_tensor(np.zeros((4, 4, 3), np.uint8), table, Layout.NCHW)
    tensor[0, 1, 2, 3] = value
    with pytest.raises(UsageError, match="this tensor is none"):
        to_pixels(tensor, table)
