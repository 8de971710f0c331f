"""What a user writes behind -O becomes a converter's options, or one line that says what to write."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from edgevit.errors import UsageError
from edgevit.targets.options import RENAMED, name_parts, options_for, without_numeric
from edgevit.targets.registry import converter_names, get_converter


@dataclass(frozen=True)
class Plugin:
    """A target whose own option has a name that others gave up."""

    name = "plugin"

    @dataclass(frozen=True)
    class Options:
        weights: str = field(default="here", metadata={"numeric": True})
        place: str = field(default="cpu", metadata={"named": True})
        note: str = ""


def test_defaults_fill_what_is_not_given():
    found = options_for(get_converter("coreml"), {"author": "A", "image_input": "true", "classifier": False})
    assert (found["author"], found["image_input"], found["classifier"]) == ("A", True, False)
    assert (found["weight_compression"], found["int8_compute"]) == ("none", "exact")


def test_option_addressed_to_another_target_is_left_to_it():
    options = {"coreml.author": "A", "executorch.x": "1"}
    assert options_for(get_converter("coreml"), options)["author"] == "A"


def test_boolean_is_true_or_false():
    with pytest.raises(UsageError, match="coreml's image_input is true or false, not 'yes'"):
        options_for(get_converter("coreml"), {"image_input": "yes"})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"arithmetic": "integers"}, "option arithmetic=integers is now int8_compute=exact"),
        ({"coreml.arithmetic": "fp16"}, "option arithmetic=fp16 is now int8_compute=fp16"),
        ({"int8_compute": "integers"}, "option int8_compute=integers is now int8_compute=exact"),
        ({"weights": "palette8"}, "option weights=palette8 is now weight_compression=palette8"),
        ({"weights": "full"}, "option weights=full is now weight_compression=none"),
        ({"weight_compression": "full"}, "option weight_compression=full is now weight_compression=none"),
    ],
)
def test_renamed_option_or_value_names_the_new_word(given, wanted):
    with pytest.raises(UsageError) as raised:
        options_for(get_converter("coreml"), given)
    assert raised.value.message == wanted
    (key,) = given
    assert raised.value.fix == f"write -O {'coreml.' if '.' in key else ''}{wanted.rpartition(' ')[2]}"


def test_renamed_option_of_another_target_is_to_be_left_out():
    with pytest.raises(UsageError, match="option arithmetic=integers is now int8_compute=exact") as raised:
        options_for(get_converter("tflite"), {"arithmetic": "integers"})
    assert raised.value.fix == "leave it out: tflite has no such option"


def test_plugin_may_have_an_option_of_a_former_name():
    assert options_for(Plugin, {"weights": "full"})["weights"] == "full"


def test_every_renamed_option_exists_by_its_new_name_alone():
    known = {key for name in converter_names() for key in options_for(get_converter(name), {})}
    assert {new for new, _ in RENAMED.values()} <= known
    assert not set(RENAMED) & known


def test_name_has_what_changes_the_file_and_is_not_the_default():
    assert name_parts(Plugin.Options()) == []
    assert name_parts(Plugin.Options(weights="there", place="cuda", note="x")) == ["weights-there", "place-cuda"]


def test_reference_build_has_no_numeric_option():
    assert without_numeric(Plugin.Options("there", "cuda", "x")) == Plugin.Options("here", "cuda", "x")
