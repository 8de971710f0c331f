"""Writes tests/contract/documents: manifests, jobs and raw reports that every reader takes or refuses alike.

    python -m tests.contract.make_documents

Each file is one valid document with one change, accept_REASON.json or refuse_REASON.json. pytest, JUnit and Swift
Testing read the same files and must give the same verdict. What is too large for a repository (more than 4 MiB, or the
longest arrays) is made by the tests themselves.
"""

from __future__ import annotations

import base64
import copy
import json
import struct
from pathlib import Path
from typing import Any

DOCUMENTS = Path(__file__).parent / "documents"
SHA256 = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
LARGEST = 2**53 - 1
SCALE = tuple(value / 255 for value in range(256))  # any table will do

Document = dict[str, Any]
ABSENT = object()  # as a change: the key is not there


def changed(document: Document, *changes: tuple[str, Any]) -> Document:
    """A copy with "a/0/b" set to a value, or taken away where that is ABSENT."""
    document = copy.deepcopy(document)
    for place, value in changes:
        *parents, last = (int(part) if part.isdigit() else part for part in place.split("/"))
        target: Any = document
        for part in parents:
            target = target[part]
        if value is ABSENT:
            del target[last]
        else:
            target[last] = value
    return document


def tensor(name: str, shape: list[int], dtype: str = "float32", layout: str = "FLAT", color: str = "") -> Document:
    return {"name": name, "shape": shape, "dtype": dtype, "layout": layout, "color": color}


def level(name: str, shape: list[int], dtype: str = "float32") -> Document:
    return {"file": f"golden/noise.{name}.bin", "shape": shape, "dtype": dtype}


def entries(*paths: str) -> list[Document]:
    return [{"path": path, "sha256": SHA256, "size_bytes": 12} for path in paths]


def table(channels: int) -> str:
    return base64.b64encode(struct.pack("<256f", *SCALE) * channels).decode()


MANIFEST: Document = {  # a classifier of tensors: the smallest
    "schema": "edgevit.manifest",
    "schema_version": 2,
    "name": "net-fp32-executorch",
    "model": {
        "name": "net", "task": "classify", "tier": "edge", "num_classes": 3, "params": 12, "macs": 340, "paper": "",
    },
    "target": "executorch",
    "precision": "fp32",
    "entry": "model.pte",
    "inputs": [tensor("signal", [1, 8])],
    "outputs": [tensor("logits", [1, 3])],
    "preprocess": None,
    "labels": ["red", "green", "blue"],
    "files": entries("model.pte", "labels.txt", "golden/noise.L2.bin", "golden/noise.L3.bin"),
    "goldens": [{"name": "noise", "levels": {"L2": level("L2", [1, 8]), "L3": level("L3", [1, 3])}}],
    "tolerance": {"max_relative_error": 1e-5, "min_snr_db": None, "float16_min_snr_db": None},
    "parity": {
        "executed": True, "runtime": "executorch 1.4.1", "samples": 3, "max_abs_error": 1e-7,
        "max_relative_error": 8.9e-7, "snr_db": 121.5, "cosine": 1.0, "agreement": 1.0, "reason": "",
    },
    "lowering": {"nodes": 8, "delegated": 7, "regions": 1, "transposes": None, "outside": {"view": 1}, "ops": {}},
    "deploy": [],
    "checks": {},
    "provenance": {
        "weights": {"source": "random", "state_sha256": SHA256},
        "tools": {"torch": "2.13.0", "litert": None},
        "options": {},
        "edgevit_version": "0.1.0",
        "git_commit": None,
        "python": "3.12.3",
        "platform": "Linux",
        "created_utc": "2026-11-20T12:00:00+00:00",
        "conversion_s": 4,
    },
}  # fmt: skip

IMAGE = changed(
    MANIFEST,
    ("inputs/0", tensor("image", [1, 3, 32, 32], layout="NCHW")),
    (
        "preprocess",
        {
            "resize": 36, "crop": [32, 32], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
            "interpolation": "bilinear", "normalize_table": table(3),
        },
    ),
    ("goldens/0/geometry", {"width": 40, "height": 36, "left": 4, "top": 2}),
    ("goldens/0/levels/L0", level("L0", [90, 100, 3], "uint8")),
    ("goldens/0/levels/L1", level("L1", [32, 32, 3], "uint8")),
    ("files", [*MANIFEST["files"], *entries("golden/noise.L0.bin", "golden/noise.L1.bin")]),
)  # fmt: skip

EXECUTED: Document = {
    "runtime": {"name": "executorch", "version": "1.4.1"},
    "settings": {
        "weights_cache": "on", "workspace_sharing": "per_model", "load": "mmap", "arithmetic": "float32", "cpu": "X",
    },
    "outcome": "within",
    "reason": None,
    "max_relative_error": 8.9e-7,
    "snr_db": 121.5,
    "operations": {"total": 8, "accelerated": 7, "left": [{"name": "view", "module": "head", "reason": None}]},
}  # fmt: skip

FULL_MANIFEST = changed(
    IMAGE,
    ("classifier", {"label": "label", "probabilities": "probabilities"}),
    ("compression", "palette4"),
    ("dynamic_batch", False),
    ("accelerator", "cpu"),
    ("tolerance", {"max_relative_error": 1e-5, "min_snr_db": 50, "float16_min_snr_db": 45.5}),
    ("reference", {"arithmetic": "float64", "float32_error": 1e-7, "float16_snr_db": 61.2}),
    ("runtime_min", {"name": "executorch", "version": "1.1.0"}),
    ("writer", "edgevit"),
    ("executed", [EXECUTED]),
    (
        "deploy",
        [
            {
                "name": "fold_affine", "changes": 2, "probe_error": 1e-7, "places": ["stem.1", "blocks.0"],
                "before": {"operations": 9, "macs": 340, "depthwise_taps": 49, "transposes": 1}, "after": None,
            }
        ],
    ),
)  # fmt: skip

TWO_OF_EACH = changed(
    MANIFEST,
    ("model/task", "tensor"),
    ("model/num_classes", None),
    ("labels", []),
    ("inputs", [tensor("ids", [1, 7], "int64"), tensor("mask", [1, 1, 1, 1, 7, 7], "bool")]),
    ("outputs", [tensor("states", [1, 7, 4], "float16"), tensor("pooled", [1, 4])]),
    ("files", entries("model.pte", *(f"golden/noise.{name}.bin" for name in ("L2", "L2_1", "L3", "L3_1")))),
    (
        "goldens/0/levels",
        {
            "L2": level("L2", [1, 7], "int64"), "L2_1": level("L2_1", [1, 1, 1, 1, 7, 7], "bool"),
            "L3": level("L3", [1, 7, 4], "float16"), "L3_1": level("L3_1", [1, 4]),
        },
    ),
)  # fmt: skip

JOB: Document = {
    "schema": "edgevit.job",
    "schema_version": 2,
    "token": "run-1",
    "artifact": "net-fp32-executorch",
    "artifact_sha256": SHA256,
    "accelerator": "cpu",
    "threads": 1,
    "input": None,
    "warmup_runs": 10,
    "warmup_s": 1.0,
    "runs": 50,
    "min_s": 5.0,
    "max_s": 150.0,
    "record_outputs": False,
}
FULL_JOB = JOB | {"input": "noise", "batch": 8, "measure_stages": True, "sustain_s": 600.5, "per_op": True}

RAW_REPORT: Document = {
    "schema": "edgevit.raw_report",
    "schema_version": 2,
    "token": "run-1",
    "job": JOB,
    "harness": "cli",
    "pid": 4711,
    "started_utc": "2026-11-20T12:00:00.000001Z",
    "device": {
        "name": "Board 5", "os": "Linux", "os_version": "6.6", "cpu": None, "cores": 4, "arch": "aarch64",
        "memory_bytes": None, "python_version": "3.11.2",
    },
    "runtime": {"name": "executorch", "version": "1.4.1"},
    "accelerator": {"asked": "cpu", "used": "cpu"},
    "threads": {"asked": 1, "used": None},
    "load_ns": 1500000,
    "first_ns": 9000000,
    "warmup_ns": [8100000],
    "samples_ns": [8000000, 8050000],
    "memory": {"baseline_bytes": None, "peak_bytes": None, "peak_above_imports_bytes": None},
    "thermal": {"before": None, "after": None},
    "load_average": {"before": 0.5, "after": 1},
    "delegation": {"delegated": 7, "nodes": 8, "regions": 1},
    "parity": {"golden": "noise", "max_relative_error": 8.9e-7, "snr_db": 121.5, "within_tolerance": True},
    "outputs": None,
    "flags": [],
    "complete": True,
}  # fmt: skip

CHARGE = {"level_percent": 81, "temperature_c": 31.5, "charging": False}
FULL_REPORT = changed(
    RAW_REPORT,
    ("complete", ABSENT),
    ("job", FULL_JOB),
    ("harness", "app"),
    ("functional", False),
    ("device/manufacturer", "Example"),
    ("device/soc", "EX3"),
    ("device/os_build", "BP2A.250605"),
    ("device/page_size_bytes", 16384),
    ("app", {"version": "2.0", "commit": "3dca6d1", "debuggable": False}),
    ("cached_load_ns", 900000),
    ("cached_first_ns", 8500000),
    ("sample_start_ns", [0, 8100000]),
    ("stages", {"preprocess_ns": [100, 101], "inference_ns": [7999000, 8049000], "postprocess_ns": [10, 11]}),
    ("thermal/series", [[0, 0], [1000000000, 0.5]]),
    ("battery", {"before": CHARGE, "after": None}),
    ("frequency_khz", {"before": 2400000, "after": None}),
    ("instructions", {"all": 612000000, "dot": 0, "i8mm": None, "fmla": 255000000, "smlal": 0}),
    ("ops", [{"name": "conv", "module": "stem.0", "ns": 12000, "delegated": True}]),
    ("outputs", [{"name": "logits", "shape": [1, 3], "dtype": "int8", "data_base64": "AAEC"}]),
    ("flags", ["load average above cores"]),
    ("failure", None),
    ("complete", True),
)
FAILED = changed(
    RAW_REPORT,
    ("load_ns", None),
    ("first_ns", None),
    ("warmup_ns", []),
    ("samples_ns", []),
    ("parity", None),
    ("failure", {"phase": "load", "message": "out of memory"}),
    ("complete", False),
)


def nested(depth: int) -> Any:
    """Arrays in arrays, so many; a key of a document holds them at one more."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def text(document: Document) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def edited(document: Document, old: str, new: str) -> bytes:
    """The text of a document with one place edited, for what no JSON writer writes."""
    written = text(document)
    assert written.count(old) == 1, old
    return written.replace(old, new).encode("utf-8", "surrogatepass")


def one(document: Document, place: str, value: Any) -> Document:
    return changed(document, (place, value))


MANIFESTS: dict[str, Document | bytes] = {
    "accept_smallest": MANIFEST,
    "accept_every_field": FULL_MANIFEST,
    "accept_image": IMAGE,
    "accept_two_inputs_and_two_outputs": TWO_OF_EACH,
    "accept_64_inputs": changed(
        MANIFEST,
        ("inputs", [tensor(f"x{i}", [1]) for i in range(64)]),
        ("goldens", []),
        ("files", entries("model.pte")),
    ),
    "accept_no_goldens": one(MANIFEST, "goldens", []),
    "accept_no_labels": one(MANIFEST, "labels", []),
    "accept_one_channel": changed(
        IMAGE,
        ("inputs/0", tensor("image", [1, 1, 32, 32], layout="NCHW")),
        ("preprocess/mean", [0.5]),
        ("preprocess/std", [0.25]),
        ("preprocess/normalize_table", table(1)),
    ),
    "accept_pixels_as_input": one(IMAGE, "inputs/0", tensor("image", [1, 32, 32, 3], "uint8", "NHWC", "RGB")),
    "accept_segmentation_of_one_class": changed(
        IMAGE,
        ("model/task", "segment"),
        ("model/num_classes", 1),
        ("labels", ["lesion"]),
        ("outputs/0", tensor("logits", [1, 1, 32, 32], layout="NCHW")),
    ),
    "accept_entry_is_a_folder": changed(
        MANIFEST, ("entry", "net.mlpackage"), ("files/0/path", "net.mlpackage/Data/weights/weight.bin")
    ),
    "accept_dot_file_is_listed": one(MANIFEST, "files/1/path", ".nomedia"),
    "accept_manifest_of_another_folder_is_listed": one(MANIFEST, "files/1/path", "net.mlpackage/manifest.json"),
    "accept_not_executed": one(
        MANIFEST,
        "parity",
        {
            "executed": False, "runtime": "coreml", "samples": 0, "max_abs_error": None, "max_relative_error": None,
            "snr_db": None, "cosine": None, "agreement": None, "reason": "Core ML models run on Apple systems only",
        },
    ),
    "accept_null_for_what_may_be_absent": MANIFEST
    | {"classifier": None, "reference": None, "runtime_min": None, "writer": None},
    "accept_unknown_keys_at_every_depth": changed(
        FULL_MANIFEST,
        ("later", {"a": [1, None]}),
        ("model/later", 1),
        ("inputs/0/later", 1),
        ("preprocess/later", 1),
        ("files/0/later", 1),
        ("goldens/0/levels/L2/later", 1),
        ("executed/0/operations/left/0/later", 1),
        ("provenance/weights/later", 1),
    ),
    "accept_labels_of_every_script": one(MANIFEST, "labels", ["naïve", "猫", "שלום"]),
    "accept_surrogate_pair": edited(MANIFEST, '"red"', '"\\ud83d\\ude00"'),
    "accept_largest_integer": one(MANIFEST, "model/params", LARGEST),
    "refuse_version_1": one(MANIFEST, "schema_version", 1),
    "refuse_version_3": one(MANIFEST, "schema_version", 3),
    "refuse_schema_of_another_document": one(MANIFEST, "schema", "edgevit.job"),
    "refuse_no_schema": one(MANIFEST, "schema", ABSENT),
    "refuse_no_model": one(MANIFEST, "model", ABSENT),
    "refuse_no_provenance": one(MANIFEST, "provenance", ABSENT),
    "refuse_no_preprocess": one(MANIFEST, "preprocess", ABSENT),
    "refuse_no_float16_tolerance": one(MANIFEST, "tolerance/float16_min_snr_db", ABSENT),
    "refuse_negative_tolerance": one(MANIFEST, "tolerance/max_relative_error", -1e-5),
    "refuse_name_with_a_slash": one(MANIFEST, "name", "a/b"),
    "refuse_name_with_a_line_break": one(MANIFEST, "name", "net\n"),
    "refuse_model_name_with_a_direction_character": one(MANIFEST, "model/name", "net\u202egepj"),
    "refuse_unknown_task": one(MANIFEST, "model/task", "detect"),
    "refuse_unknown_precision": one(MANIFEST, "precision", "fp8"),
    "refuse_classifier_without_classes": one(MANIFEST, "model/num_classes", None),
    "refuse_tensor_task_with_classes": changed(TWO_OF_EACH, ("model/num_classes", 3)),
    "refuse_zero_classes": changed(MANIFEST, ("model/num_classes", 0), ("labels", [])),
    "refuse_negative_params": one(MANIFEST, "model/params", -1),
    "refuse_params_with_a_fraction": edited(MANIFEST, '"params": 12', '"params": 12.0'),
    "refuse_params_with_an_exponent": edited(MANIFEST, '"params": 12', '"params": 12e1'),
    "refuse_params_beyond_2_to_the_53": one(MANIFEST, "model/params", LARGEST + 1),
    "refuse_params_is_true": one(MANIFEST, "model/params", True),
    "refuse_fewer_labels_than_classes": one(MANIFEST, "labels", ["red", "green"]),
    "refuse_label_with_a_line_break": one(MANIFEST, "labels/0", "red\n"),
    "refuse_label_with_a_control_character": one(MANIFEST, "labels/0", "red\u0007"),
    "refuse_label_with_a_direction_character": one(MANIFEST, "labels/0", "\u2067red"),
    "refuse_label_with_a_line_separator": one(MANIFEST, "labels/0", "red\u2028"),
    "refuse_label_is_a_number": one(MANIFEST, "labels/0", 7),
    "refuse_no_inputs": one(MANIFEST, "inputs", []),
    "refuse_65_inputs": changed(
        MANIFEST,
        ("inputs", [tensor(f"x{i}", [1]) for i in range(65)]),
        ("goldens", []),
        ("files", entries("model.pte")),
    ),
    "refuse_two_inputs_of_one_name": changed(
        TWO_OF_EACH, ("inputs/1/name", "ids")
    ),
    "refuse_input_without_color": one(MANIFEST, "inputs/0/color", ABSENT),
    "refuse_unknown_color": one(IMAGE, "inputs/0/color", "BGR"),
    "refuse_unknown_dtype": one(MANIFEST, "inputs/0/dtype", "float64"),
    "refuse_unknown_layout": one(MANIFEST, "inputs/0/layout", "NHCW"),
    "refuse_shape_without_axes": one(MANIFEST, "inputs/0/shape", []),
    "refuse_shape_of_seven_axes": one(MANIFEST, "inputs/0/shape", [1] * 7),
    "refuse_axis_of_length_zero": one(MANIFEST, "inputs/0/shape", [1, 0]),
    "refuse_image_input_without_preprocess": one(MANIFEST, "inputs/0/color", "RGB"),
    "refuse_two_channels": changed(
        IMAGE, ("preprocess/mean", [0, 0]), ("preprocess/std", [1, 1]), ("preprocess/normalize_table", table(2))
    ),
    "refuse_std_of_zero": one(IMAGE, "preprocess/std", [1, 0, 1]),
    "refuse_mean_and_std_of_other_lengths": one(IMAGE, "preprocess/mean", [0.5]),
    "refuse_crop_larger_than_resize": one(IMAGE, "preprocess/resize", 31),
    "refuse_crop_of_one_number": one(IMAGE, "preprocess/crop", [32]),
    "refuse_unknown_interpolation": one(IMAGE, "preprocess/interpolation", "nearest"),
    "refuse_table_of_one_channel_for_three": one(IMAGE, "preprocess/normalize_table", table(1)),
    "refuse_table_that_is_not_base64": one(IMAGE, "preprocess/normalize_table", "*" * 4096),
    "refuse_golden_without_geometry": one(IMAGE, "goldens/0/geometry", ABSENT),
    "refuse_golden_without_its_image": one(IMAGE, "goldens/0/levels/L0", ABSENT),
    "refuse_golden_without_its_output": one(MANIFEST, "goldens/0/levels/L3", ABSENT),
    "refuse_golden_without_its_second_input": one(TWO_OF_EACH, "goldens/0/levels/L2_1", ABSENT),
    "refuse_geometry_without_preprocess": one(MANIFEST, "goldens/0/geometry", {"top": 0}),
    "refuse_image_level_without_preprocess": one(MANIFEST, "goldens/0/levels/L1", level("L2", [1, 8])),
    "refuse_golden_file_is_not_listed": one(MANIFEST, "goldens/0/levels/L3/file", "golden/other.bin"),
    "refuse_two_goldens_of_one_name": one(MANIFEST, "goldens", MANIFEST["goldens"] * 2),
    "refuse_65_goldens": one(MANIFEST, "goldens", [MANIFEST["goldens"][0] | {"name": f"g{i}"} for i in range(65)]),
    "refuse_no_files": changed(MANIFEST, ("files", []), ("goldens", [])),
    "refuse_file_twice": one(MANIFEST, "files/1/path", "model.pte"),
    "refuse_manifest_lists_itself": one(MANIFEST, "files/1/path", "manifest.json"),
    "refuse_litter_is_listed": one(MANIFEST, "files/1/path", "golden/.DS_Store"),
    "refuse_path_to_the_parent": one(MANIFEST, "files/1/path", "golden/../../labels.txt"),
    "refuse_path_from_the_root": one(MANIFEST, "files/1/path", "/etc/passwd"),
    "refuse_path_with_a_backslash": one(MANIFEST, "files/1/path", "golden\\x.bin"),
    "refuse_path_with_an_empty_part": one(MANIFEST, "files/1/path", "golden//x.bin"),
    "refuse_path_with_a_dot_part": one(MANIFEST, "files/1/path", "./labels.txt"),
    "refuse_path_of_a_folder": one(MANIFEST, "files/1/path", "golden/"),
    "refuse_path_with_a_nul": one(MANIFEST, "files/1/path", "labels.txt\u0000"),
    "refuse_entry_is_not_listed": one(MANIFEST, "entry", "other.pte"),
    "refuse_entry_is_the_beginning_of_a_name": one(MANIFEST, "entry", "model"),
    "refuse_hash_in_capitals": one(MANIFEST, "files/0/sha256", SHA256.upper()),
    "refuse_hash_with_a_line_break": one(MANIFEST, "files/0/sha256", SHA256 + "\n"),
    "refuse_negative_size": one(MANIFEST, "files/0/size_bytes", -1),
    "refuse_executed_outcome_unknown": changed(FULL_MANIFEST, ("executed/0/outcome", "passed")),
    "refuse_executed_setting_unknown": changed(FULL_MANIFEST, ("executed/0/settings/load", "stream")),
    "refuse_executed_setting_is_a_number": changed(FULL_MANIFEST, ("executed/0/settings/driver", 31)),
    "refuse_executed_setting_whose_name_has_a_line_break": changed(FULL_MANIFEST, ("executed/0/settings/a\nb", "c")),
    "refuse_65_rows_executed": one(MANIFEST, "executed", [EXECUTED] * 65),
    "refuse_reference_arithmetic_unknown": one(FULL_MANIFEST, "reference/arithmetic", "bfloat16"),
    "refuse_writer_unknown": one(MANIFEST, "writer", "another"),
    "refuse_runtime_min_without_version": one(FULL_MANIFEST, "runtime_min/version", ABSENT),
    "refuse_weights_of_unknown_source": one(MANIFEST, "provenance/weights/source", "download"),
}  # fmt: skip

JOBS: dict[str, Document | bytes] = {
    "accept_smallest": JOB,
    "accept_every_field": FULL_JOB,
    "accept_no_sustained_load": JOB | {"sustain_s": None},
    "accept_all_units_of_core_ml": JOB | {"accelerator": "all"},
    "accept_no_warm_up": JOB | {"warmup_runs": 0, "warmup_s": 0, "min_s": 0},
    "accept_seconds_with_an_exponent": edited(JOB, '"max_s": 150.0', '"max_s": 1.5E+2'),
    "accept_unknown_keys_at_every_depth": JOB | {"later": {"a": [{"b": 1}]}},
    "accept_white_space_around": b"\r\n\t " + text(JOB).encode() + b"\r\n\t ",
    "accept_escaped_key": edited(JOB, '"runs"', '"r\\u0075ns"'),
    "accept_32_deep": JOB | {"later": nested(31)},
    "refuse_version_1": JOB | {"schema_version": 1},
    "refuse_version_3": JOB | {"schema_version": 3},
    "refuse_version_is_text": JOB | {"schema_version": "2"},
    "refuse_version_with_a_fraction": edited(JOB, '"schema_version": 2', '"schema_version": 2.0'),
    "refuse_no_version": changed(JOB, ("schema_version", ABSENT)),
    "refuse_schema_of_another_document": JOB | {"schema": "edgevit.raw_report"},
    "refuse_no_token": changed(JOB, ("token", ABSENT)),
    "refuse_token_is_empty": JOB | {"token": ""},
    "refuse_token_with_a_space": JOB | {"token": "run 1"},
    "refuse_token_with_a_line_break": JOB | {"token": "run-1\n"},
    "refuse_token_of_65_characters": JOB | {"token": "a" * 65},
    "refuse_artifact_is_a_path": JOB | {"artifact": "artifacts/net"},
    "refuse_artifact_is_the_parent": JOB | {"artifact": ".."},
    "refuse_artifact_with_a_backslash": JOB | {"artifact": "artifacts\\net"},
    "refuse_artifact_with_a_direction_character": JOB | {"artifact": "net\u202e"},
    "refuse_hash_in_capitals": JOB | {"artifact_sha256": SHA256.upper()},
    "refuse_hash_too_short": JOB | {"artifact_sha256": SHA256[1:]},
    "refuse_accelerator_unknown": JOB | {"accelerator": "tpu"},
    "refuse_accelerator_in_capitals": JOB | {"accelerator": "GPU"},
    "refuse_no_threads": JOB | {"threads": 0},
    "refuse_threads_with_a_fraction": edited(JOB, '"threads": 1', '"threads": 1.0'),
    "refuse_threads_with_an_exponent": edited(JOB, '"threads": 1', '"threads": 1e0'),
    "refuse_threads_is_text": JOB | {"threads": "1"},
    "refuse_threads_is_null": JOB | {"threads": None},
    "refuse_threads_in_digits_of_another_script": edited(JOB, '"threads": 1', '"threads": ١'),
    "refuse_batch_of_zero": JOB | {"batch": 0},
    "refuse_no_runs": JOB | {"runs": 0},
    "refuse_negative_warm_up": JOB | {"warmup_runs": -1},
    "refuse_negative_seconds": JOB | {"min_s": -0.5},
    "refuse_longest_time_is_zero": JOB | {"max_s": 0, "min_s": 0, "warmup_s": 0},
    "refuse_longest_time_below_the_least": JOB | {"max_s": 4.0},
    "refuse_longest_time_below_the_warm_up": JOB | {"max_s": 5.0, "warmup_s": 6.0},
    "refuse_sustained_load_of_zero": JOB | {"sustain_s": 0},
    "refuse_input_is_a_number": JOB | {"input": 1},
    "refuse_input_with_a_control_character": JOB | {"input": "noise\u001b[2J"},
    "refuse_record_outputs_is_text": JOB | {"record_outputs": "false"},
    "refuse_measure_stages_is_a_number": JOB | {"measure_stages": 1},
    "refuse_per_op_is_null": JOB | {"per_op": None},
    # JSON itself: a job is the smallest document, the reader below is that of all.
    "refuse_empty_file": b"",
    "refuse_only_white_space": b" \n",
    "refuse_cut_off": text(JOB).rstrip()[:-1].encode(),
    "refuse_array_at_the_top": f"[{text(JOB)}]".encode(),
    "refuse_null_at_the_top": b"null",
    "refuse_byte_order_mark": b"\xef\xbb\xbf" + text(JOB).encode(),
    "refuse_utf_16": text(JOB).encode("utf-16-le"),
    "refuse_latin_1": edited(JOB | {"input": "x"}, '"x"', '"é"').replace("é".encode(), b"\xe9"),
    "refuse_overlong_utf_8": edited(JOB | {"input": "x"}, '"x"', '"~"').replace(b'"~"', b'"\xc1\xbf"'),
    "refuse_surrogate_in_utf_8": edited(JOB | {"input": "x"}, '"x"', '"\ud83d"'),
    "refuse_unpaired_high_surrogate": edited(JOB, '"schema"', '"later": "\\ud83d",\n "schema"'),
    "refuse_unpaired_low_surrogate": edited(JOB, '"schema"', '"later": "\\ude00",\n "schema"'),
    "refuse_unpaired_surrogate_in_an_array": edited(JOB, '"schema"', '"later": ["\\ud83d"],\n "schema"'),
    "refuse_unpaired_surrogate_in_a_key": edited(JOB, '"schema"', '"\\ud83d": 1,\n "schema"'),
    "refuse_key_twice": edited(JOB, '"runs": 50', '"runs": 50,\n "runs": 50'),
    "refuse_key_twice_once_escaped": edited(JOB, '"runs": 50', '"runs": 50,\n "r\\u0075ns": 50'),
    "refuse_unknown_key_twice_below": edited(JOB, '"runs": 50', '"runs": 50,\n "later": [{"a": 1, "a": 1}]'),
    "refuse_not_a_number": edited(JOB, '"max_s": 150.0', '"max_s": NaN'),
    "refuse_infinity": edited(JOB, '"max_s": 150.0', '"max_s": Infinity'),
    "refuse_minus_infinity": edited(JOB, '"min_s": 5.0', '"min_s": -Infinity'),
    "refuse_number_beyond_a_double": edited(JOB, '"max_s": 150.0', '"max_s": 1e999'),
    "refuse_integer_beyond_2_to_the_53": JOB | {"threads": LARGEST + 1},
    "refuse_integer_below_minus_2_to_the_53": edited(JOB, '"runs": 50', f'"runs": -{LARGEST + 1}'),
    "refuse_leading_zero": edited(JOB, '"runs": 50', '"runs": 050'),
    "refuse_plus_sign": edited(JOB, '"runs": 50', '"runs": +50'),
    "refuse_hexadecimal": edited(JOB, '"runs": 50', '"runs": 0x32'),
    "refuse_no_digit_before_the_point": edited(JOB, '"min_s": 5.0', '"min_s": .5'),
    "refuse_no_digit_after_the_point": edited(JOB, '"min_s": 5.0', '"min_s": 5.'),
    "refuse_33_deep": JOB | {"later": nested(32)},
    "refuse_20000_deep": edited(JOB, '"schema"', f'"later": {"[" * 20_000}{"]" * 20_000},\n "schema"'),
    "refuse_text_after_the_object": text(JOB).encode() + b"x",
    "refuse_second_object": text(JOB).encode() * 2,
    "refuse_nul_after_the_object": text(JOB).encode() + b"\x00",
    "refuse_trailing_comma": edited(JOB, '"record_outputs": false', '"record_outputs": false,'),
    "refuse_comment": edited(JOB, '"runs": 50', '"runs": 50 /* quick */'),
    "refuse_single_quotes": edited(JOB, '"token": "run-1"', "\"token\": 'run-1'"),
    "refuse_unquoted_key": edited(JOB, '"runs"', "runs"),
    "refuse_unquoted_text": edited(JOB, '"token": "run-1"', '"token": run'),
    "refuse_capital_literal": edited(JOB, '"record_outputs": false', '"record_outputs": False'),
    "refuse_raw_control_character": edited(JOB, '"schema"', '"later": "a\tb",\n "schema"'),
    "refuse_unknown_escape": edited(JOB, '"schema"', '"later": "\\x41",\n "schema"'),
    "refuse_no_break_space_outside_text": edited(JOB, '"runs": 50', '"runs":\u00a050'),
}

RAW_REPORTS: dict[str, Document | bytes] = {
    "accept_smallest": RAW_REPORT,
    "accept_every_field": FULL_REPORT,
    "accept_emulated": RAW_REPORT | {"functional": True},
    "accept_failed_while_loading": FAILED,
    "accept_failed_with_some_samples": RAW_REPORT
    | {"failure": {"phase": "samples", "message": "it crashed, signal SIGSEGV"}, "complete": False},
    "accept_outputs_not_compared": RAW_REPORT | {"parity": None},
    "accept_output_not_finite": RAW_REPORT
    | {"parity": {"golden": "noise", "max_relative_error": None, "snr_db": None, "within_tolerance": False}},
    "accept_no_warm_up": RAW_REPORT | {"warmup_ns": []},
    "accept_null_for_what_was_not_measured": RAW_REPORT
    | {
        "pid": None, "app": None, "cached_load_ns": None, "cached_first_ns": None, "sample_start_ns": None,
        "stages": None, "battery": None, "frequency_khz": None, "instructions": None, "ops": None, "failure": None,
    },
    "accept_second_without_a_fraction": RAW_REPORT | {"started_utc": "2026-11-20T12:00:00Z"},
    "accept_unknown_keys_at_every_depth": changed(
        FULL_REPORT,
        ("later", {"a": 1}),
        ("device/later", 1),
        ("job/later", 1),
        ("battery/before/later", 1),
        ("ops/0/later", 1),
        ("outputs/0/later", 1),
    ),
    "refuse_version_1": one(RAW_REPORT, "schema_version", 1),
    "refuse_schema_of_a_summary": one(RAW_REPORT, "schema", "edgevit.report"),
    "refuse_job_of_version_1": one(RAW_REPORT, "job/schema_version", 1),
    "refuse_job_of_another_token": one(RAW_REPORT, "job/token", "run-2"),
    "refuse_job_without_runs": one(RAW_REPORT, "job/runs", ABSENT),
    "refuse_token_with_a_line_break": changed(RAW_REPORT, ("token", "run-1\n"), ("job/token", "run-1\n")),
    "refuse_no_device": one(RAW_REPORT, "device", ABSENT),
    "refuse_no_samples_key": one(RAW_REPORT, "samples_ns", ABSENT),
    "refuse_no_complete": one(RAW_REPORT, "complete", ABSENT),
    "refuse_complete_is_null": one(RAW_REPORT, "complete", None),
    "refuse_complete_is_text": one(RAW_REPORT, "complete", "true"),
    "refuse_complete_without_samples": one(RAW_REPORT, "samples_ns", []),
    "refuse_complete_without_load": one(RAW_REPORT, "load_ns", None),
    "refuse_complete_without_first": one(RAW_REPORT, "first_ns", None),
    "refuse_complete_with_a_failure": one(RAW_REPORT, "failure", FAILED["failure"]),
    "refuse_not_complete_without_a_failure": one(RAW_REPORT, "complete", False),
    "refuse_not_complete_with_failure_null": changed(RAW_REPORT, ("failure", None), ("complete", False)),
    "refuse_failure_in_an_unknown_phase": one(FAILED, "failure/phase", "profile"),
    "refuse_failure_of_two_lines": one(FAILED, "failure/message", "out of\nmemory"),
    "refuse_harness_unknown": one(RAW_REPORT, "harness", "browser"),
    "refuse_pid_of_zero": one(RAW_REPORT, "pid", 0),
    "refuse_start_in_local_time": one(RAW_REPORT, "started_utc", "2026-11-20T12:00:00+01:00"),
    "refuse_start_in_digits_of_another_script": one(RAW_REPORT, "started_utc", "٢٠٢٦-11-20T12:00:00Z"),
    "refuse_device_name_with_a_line_break": one(RAW_REPORT, "device/name", "Board\n5"),
    "refuse_device_name_is_empty": one(RAW_REPORT, "device/name", ""),
    "refuse_device_without_cores": one(RAW_REPORT, "device/cores", ABSENT),
    "refuse_cores_of_zero": one(RAW_REPORT, "device/cores", 0),
    "refuse_page_size_of_zero": one(FULL_REPORT, "device/page_size_bytes", 0),
    "refuse_app_without_debuggable": one(FULL_REPORT, "app/debuggable", ABSENT),
    "refuse_accelerator_unknown": one(RAW_REPORT, "accelerator/asked", "tpu"),
    "refuse_load_of_zero": one(RAW_REPORT, "load_ns", 0),
    "refuse_load_is_text": one(RAW_REPORT, "load_ns", "1500000"),
    "refuse_sample_of_zero": one(RAW_REPORT, "samples_ns/0", 0),
    "refuse_sample_with_a_fraction": edited(RAW_REPORT, "8050000", "8050000.5"),
    "refuse_sample_with_an_exponent": edited(RAW_REPORT, "8050000", "8.05e6"),
    "refuse_sample_is_null": one(RAW_REPORT, "samples_ns/0", None),
    "refuse_sample_is_not_a_number": edited(RAW_REPORT, "8050000", "NaN"),
    "refuse_more_starts_than_samples": one(FULL_REPORT, "sample_start_ns", [0, 1, 2]),
    "refuse_negative_start": one(FULL_REPORT, "sample_start_ns/0", -1),
    "refuse_stage_with_fewer_runs": one(FULL_REPORT, "stages/preprocess_ns", [100]),
    "refuse_stage_is_missing": one(FULL_REPORT, "stages/postprocess_ns", ABSENT),
    "refuse_memory_of_zero": one(RAW_REPORT, "memory/peak_bytes", 0),
    "refuse_thermal_pair_of_three": one(FULL_REPORT, "thermal/series/0", [0, 0, 0]),
    "refuse_thermal_time_with_a_fraction": one(FULL_REPORT, "thermal/series/0", [0.5, 0]),
    "refuse_battery_above_100_percent": one(FULL_REPORT, "battery/before/level_percent", 101),
    "refuse_frequency_of_zero": one(FULL_REPORT, "frequency_khz/before", 0),
    "refuse_negative_instructions": one(FULL_REPORT, "instructions/all", -1),
    "refuse_operation_without_a_name": one(FULL_REPORT, "ops/0/name", ABSENT),
    "refuse_parity_without_a_verdict": one(RAW_REPORT, "parity/within_tolerance", ABSENT),
    "refuse_negative_error": one(RAW_REPORT, "parity/max_relative_error", -1e-7),
    "refuse_output_of_other_size": one(FULL_REPORT, "outputs/0/shape", [1, 4]),
    "refuse_output_that_is_not_base64": one(FULL_REPORT, "outputs/0/data_base64", "A=EC"),
    "refuse_output_of_unknown_dtype": one(FULL_REPORT, "outputs/0/dtype", "complex64"),
    "refuse_65_outputs": one(FULL_REPORT, "outputs", FULL_REPORT["outputs"] * 65),
    "refuse_flag_of_two_lines": one(RAW_REPORT, "flags", ["hot\nand busy"]),
    "refuse_cut_off": text(RAW_REPORT)[:-40].encode(),
}  # fmt: skip

ALL = {"manifest": MANIFESTS, "job": JOBS, "raw_report": RAW_REPORTS}


def contents(document: Document | bytes) -> bytes:
    """A file's bytes."""
    return document if isinstance(document, bytes) else text(document).encode("utf-8")


def main() -> None:
    """Write every file, and remove those that are no longer in the tables."""
    for kind, documents in ALL.items():
        folder = DOCUMENTS / kind
        folder.mkdir(parents=True, exist_ok=True)
        for stale in {path.name for path in folder.iterdir()} - {f"{name}.json" for name in documents}:
            (folder / stale).unlink()
        for name, document in documents.items():
            (folder / f"{name}.json").write_bytes(contents(document))


if __name__ == "__main__":
    main()
