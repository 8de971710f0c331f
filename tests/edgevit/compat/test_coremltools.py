"""What edgevit/compat/coremltools.py relies on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgevit.compat import coremltools as compat

pytest.importorskip("coremltools", reason="coremltools is not installed")

MESSAGES_ALONE = """
import sys
from edgevit.compat.coremltools import message_classes
message_classes("Model_pb2").Model().specificationVersion = 7
print(sorted({"coremltools", "torch", "numpy"} & set(sys.modules)))
import coremltools
print(coremltools.proto.Model_pb2 is message_classes("Model_pb2"))
"""


def test_message_classes_load_alone_and_serve_coremltools_later():
    done = subprocess.run([sys.executable, "-c", MESSAGES_ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_forms_are_known_by_operation():
    import torch

    compat.open_coremltools()
    assert compat.has_form(torch.ops.aten.conv2d.default)
    assert not compat.has_form(torch.ops.aten.linalg_eigvals.default)


def test_what_stands_in_for_core_ml_is_there_to_be_replaced():
    ct = compat.open_coremltools()
    from coremltools.converters.mil import testing_utils

    assert isinstance(testing_utils._IS_MACOS, bool)
    assert callable(ct.models.utils._macos_version)
    assert callable(ct.models.MLModel.predict)
    assert callable(ct.models.MLModel.make_state)


def test_passes_that_are_left_out_exist():
    passes = set(compat.open_coremltools().PassPipeline().passes)
    assert "common::fuse_elementwise_to_batchnorm" in passes
    assert "common::distributive_quantized_binary_op_scale_normalization" in passes
