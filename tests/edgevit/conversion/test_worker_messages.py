"""Messages between pipeline and worker come back as they were written, and whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgevit.contract.golden import Reference
from edgevit.contract.manifest import AppliedPass, GraphFacts, ReferenceFacts, Tolerance
from edgevit.conversion.worker_messages import (
    CheckpointOutputs,
    ProgramFiles,
    WorkerRequest,
    WorkerResult,
    save_failure,
)
from edgevit.errors import ConversionError, StorageError

STEP = AppliedPass("fold_affine", 2, 1e-7, ("stem.1", "norm"), GraphFacts(9, 100, 49, 0), GraphFacts(7, 90, 49, 0))


@pytest.mark.parametrize("reference", [None, "fp32"])
def test_request_comes_back_as_it_was(tmp_path, reference):
    files = ProgramFiles(tmp_path / "xnnpack", tmp_path / "outputs.npz")
    fp32 = None if reference is None else ProgramFiles(tmp_path / reference, tmp_path / "fp32_outputs.npz")
    options = {"weight_compression": "int8", "image_input": True}
    request = WorkerRequest("coreml", options, tmp_path / "out", files, (STEP,), fp32)
    request.save(tmp_path / "request.json")
    assert WorkerRequest.load(tmp_path / "request.json") == request


def test_result_comes_back_as_it_was(tmp_path):
    result = WorkerResult(tmp_path / "net-fp32-tflite", "0" * 64)
    result.save(tmp_path / "result.json")
    assert WorkerResult.load(tmp_path / "result.json", "tflite") == result


def test_failure_is_raised_where_the_result_is_read(tmp_path):
    save_failure(tmp_path / "result.json", StorageError("disk full", fix="make room"))
    with pytest.raises(StorageError, match=r"disk full \(make room\)"):
        WorkerResult.load(tmp_path / "result.json", "tflite")


def test_nothing_is_unpickled_and_no_package_but_the_converters_is_imported(tmp_path):
    record = {"module": "tests.tiny", "name": "Anything", "message": "m", "fix": "", "fields": {}}
    (tmp_path / "result.json").write_text(json.dumps({"error": record}))
    with pytest.raises(ConversionError, match="the tflite converter failed with Anything: m"):
        WorkerResult.load(tmp_path / "result.json", "tflite")


def test_outputs_come_back_bit_exact_sorted_by_name(tmp_path):
    rng = np.random.default_rng(0)

    def golden(name):
        pixels = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        return Reference(name, pixels, rng.normal(size=(1, 3, 2, 2)).astype(np.float32), np.float32([[1, np.nan]]))

    outputs = CheckpointOutputs(
        [golden("portrait"), golden("image.0")],
        np.float32([[[[1.5]]]]),
        rng.normal(size=(1, 2)),
        Tolerance(max_relative_error=2.6e-5),
        ReferenceFacts("float64", 6.5e-6, None),
    )
    outputs.save(tmp_path / "outputs.npz")
    found = CheckpointOutputs.load(tmp_path / "outputs.npz")
    assert [one.name for one in found.goldens] == ["image.0", "portrait"]
    for one, other in zip(found.goldens, outputs.goldens[::-1], strict=True):
        for part in ("pixels", "tensor", "logits"):
            assert getattr(one, part).dtype == getattr(other, part).dtype
            assert getattr(one, part).tobytes() == getattr(other, part).tobytes()
    assert found.probes.tobytes() == outputs.probes.tobytes()
    assert found.probe_logits.tobytes() == outputs.probe_logits.tobytes()
    assert (found.tolerance, found.facts) == (outputs.tolerance, outputs.facts)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs.npz"]  # no half-written file beside it
