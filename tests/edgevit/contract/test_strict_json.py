"""What the shared documents cannot hold: files and arrays at their largest."""

from __future__ import annotations

import json

import pytest

from edgevit.contract.schema import MAX_BYTES, load_schema
from edgevit.contract.strict_json import parse_json, read_json
from edgevit.errors import ContractError


def test_file_at_the_limit_is_read_and_one_byte_more_is_not(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_bytes(b"{}".ljust(MAX_BYTES["manifest"]))
    assert read_json(path, MAX_BYTES["manifest"]) == {}
    path.write_bytes(b"{}".ljust(MAX_BYTES["manifest"] + 1))
    with pytest.raises(ContractError, match="is larger than 4 MiB"):
        read_json(path, MAX_BYTES["manifest"])


def test_file_that_is_too_large_is_not_parsed(tmp_path):
    path = tmp_path / "job.json"
    path.write_bytes(b"x" * 100)
    with pytest.raises(ContractError, match="larger"):
        read_json(path, 99)


def test_missing_file_and_folder_say_so(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ContractError, match="cannot read"):
            read_json(path, 100)


def arrays(schema, place=""):
    """Every array in a schema, by the path of its keys."""
    if isinstance(schema, dict):
        kind = schema.get("type")
        if kind == "array" or (isinstance(kind, list) and "array" in kind):
            yield place, schema
        for key, value in schema.items():
            yield from arrays(value, f"{place}/{key}")


@pytest.mark.parametrize("name", MAX_BYTES)
def test_every_array_has_a_longest_length(name):
    assert [place for place, schema in arrays(load_schema(name)) if "maxItems" not in schema] == []


def test_longest_lengths_are_those_of_the_contract():
    manifest, report = (load_schema(name)["properties"] for name in ("manifest", "raw_report"))
    wanted = {"files": 10_000, "goldens": 64, "inputs": 64, "outputs": 64, "labels": 100_000, "executed": 64}
    assert {key: manifest[key]["maxItems"] for key in wanted} == wanted
    assert {key: report[key]["maxItems"] for key in ("warmup_ns", "samples_ns", "sample_start_ns")} == {
        "warmup_ns": 4_000_000,
        "samples_ns": 4_000_000,
        "sample_start_ns": 4_000_000,
    }


@pytest.mark.parametrize("text", ["1.0", "-0.0", "1e0", "-1E+2", "0.5e-3"])
def test_numbers_with_a_fraction_or_exponent_stay_as_they_are(text):
    assert parse_json(f'{{"a": {text}}}'.encode(), "here", 100) == {"a": float(text)}


def test_error_names_the_file_and_what_is_wrong():
    with pytest.raises(ContractError, match="here is not JSON of ours: key 'a' stands twice in one object"):
        parse_json(json.dumps({"a": 1}).replace("}", ', "a": 2}').encode(), "here", 100)
