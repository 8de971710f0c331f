"""A request refuses what can be seen to be wrong, and is the same as the arguments of `convert`."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path

import pytest

import edgevit
from edgevit.conversion.request import ConversionRequest, chosen_labels, chosen_precision, chosen_targets
from edgevit.errors import UsageError
from edgevit.spec import Precision, Tier
from edgevit.targets.registry import converter_names, get_converter
from tests.tiny import TinyClassifier, classifier_spec, seeded

EDGE, SERVER = ("coreml", "executorch", "tflite"), ("aotinductor", "onnx")


def test_request_has_every_argument_of_convert_with_its_default():
    arguments = inspect.signature(edgevit.convert).parameters
    fields = {field.name: field for field in dataclasses.fields(ConversionRequest)}
    assert {"targets" if name == "target" else name for name in arguments} == set(fields)
    request = ConversionRequest("van_b0", ("tflite",))
    for name, argument in arguments.items():
        if name not in ("model", "target", "options"):
            kind = Path if name == "out" else lambda value: value
            assert getattr(request, name) == kind(argument.default), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ()}, "no target"),
        ({"precision": Precision.BF16}, "tflite has no precision bf16"),
        ({"spec": classifier_spec()}, "van_b0 brings its own spec"),
        ({"num_classes": 0}, "0 classes"),
        ({"input_size": -32}, "-32 pixels"),
        ({"timeout_s": 0}, "a time-out of 0 s"),
        ({"timeout_s": math.nan}, "a time-out of nan s"),
        ({"options": {"author": "A"}}, "unknown option of tflite 'author'"),
        ({"options": {"tflit.weight_compression": "int8"}}, "unknown target 'tflit'"),
        ({"options": {"weight_compression": "int3"}}, "unknown weight_compression 'int3'"),
        ({"options": {"weights": "int8"}}, "option weights=int8 is now weight_compression=int8"),
        ({"deploy": False, "precision": Precision.INT8}, "belong to the deployed form"),
        ({"deploy": False, "options": {"weight_compression": "int8"}}, "belong to the deployed form"),
    ],
)
def test_wrong_request_is_refused_in_one_line(arguments, message):
    with pytest.raises(UsageError, match=message) as raised:
        ConversionRequest(**{"model": "van_b0", "targets": ("tflite",)} | arguments)
    assert raised.value.fix
    assert "\n" not in str(raised.value)


def test_option_for_one_target_concerns_that_one():
    request = ConversionRequest("van_b0", EDGE, options={"coreml.author": "A", "tflite.weight_compression": "int8"})
    assert request.options_of("coreml")["author"] == "A"
    assert request.options_of("tflite") == {"weight_compression": "int8"}
    assert request.options_of("executorch") == {"weight_compression": "none"}


@pytest.mark.parametrize(("tier", "meant"), [(Tier.EDGE, EDGE), (Tier.SERVER, SERVER)])
def test_all_means_the_targets_of_the_models_tier(tier, meant):
    spec = dataclasses.replace(classifier_spec(), tier=tier)
    assert chosen_targets("all", seeded(TinyClassifier), spec) == meant
    assert chosen_targets(["tflite", "all", "tflite"], "my_net.py:build") == ("tflite", "coreml", "executorch")
    assert chosen_targets(["all", "onnx"], "my_net.py:build") == (*EDGE, "onnx")


def test_every_target_has_a_tier():
    assert {name: get_converter(name).tier for name in converter_names()} == {
        **dict.fromkeys(EDGE, Tier.EDGE),
        **dict.fromkeys(SERVER, Tier.SERVER),
    }


def test_unknown_words_name_the_nearest():
    with pytest.raises(UsageError, match="did you mean executorch"):
        chosen_targets("executorc", "van_b0")
    with pytest.raises(UsageError, match="did you mean fp16"):
        chosen_precision("fp15")


def test_labels_are_names_or_a_file_of_them(tmp_path):
    (tmp_path / "labels.txt").write_text("ant\nbee\n")
    assert chosen_labels(["ant", "bee"]) == chosen_labels(tmp_path / "labels.txt") == ("ant", "bee")
    assert chosen_labels(str(tmp_path / "labels.txt")) == ("ant", "bee")
    with pytest.raises(UsageError, match="cannot read labels"):
        chosen_labels(tmp_path / "absent.txt")
