import dataclasses
import json

import numpy as np
import pytest

from edgevit.contract.raw_report import Memory, RawReport, RecordedTensor, read_report
from edgevit.contract.schema import load_schema
from edgevit.errors import ContractError
from edgevit.infra.files import write_json
from tests.fakes import make_job, make_report


def test_report_survives_its_file(tmp_path):
    tensor = RecordedTensor.of("logits", np.arange(6, dtype=np.float32).reshape(2, 3))
    report = dataclasses.replace(
        make_report(make_job()), outputs=(tensor,), memory=Memory(100, 150), flags=("load average above cores",)
    )
    write_json(tmp_path / "report.json", report.to_json())
    assert read_report(tmp_path / "report.json") == report


def test_document_is_plain_json_and_ends_with_complete():
    document = make_report(make_job()).to_json()
    assert json.loads(json.dumps(document)) == document
    assert list(document)[-1] == "complete"


def described(schema):
    """Every property schema below `schema`, nested objects and array items included."""
    for name, field in schema.get("properties", {}).items():
        yield name, field
        yield from described(field)
        yield from described(field.get("items", {}))


def test_every_field_is_in_the_schema_required_and_described():
    schema, document = load_schema("report"), make_report(make_job()).to_json()
    assert set(schema["properties"]) == set(schema["required"]) == set(document)
    assert all({"title", "description"} <= set(field) for _, field in described(schema))
    for name, field in schema["properties"].items():
        if "properties" in field:
            assert set(field["properties"]) == set(field["required"]) == set(document[name]), name


def test_peak_above_imports_is_unknown_where_either_reading_is():
    assert Memory(None, 5).peak_above_imports_bytes is None
    assert Memory(5, None).peak_above_imports_bytes is None
    assert Memory(3, 5).peak_above_imports_bytes == 2


def test_recorded_tensor_is_little_endian_in_c_order():
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    tensor = RecordedTensor.of("mask", array)
    assert tensor.data == np.arange(6, dtype="<i4").tobytes()
    assert np.array_equal(tensor.array(), array)


def test_facts_of_a_phone_at_top_level_are_allowed():
    document = make_report(make_job()).to_json()
    assert RawReport.from_json(document | {"battery_percent": 80}) == make_report(make_job())


@pytest.mark.parametrize("complete", [False, None])
def test_incomplete_report_is_refused(complete):
    document = make_report(make_job()).to_json() | {"complete": complete}
    with pytest.raises(ContractError, match="complete"):
        RawReport.from_json(document)


@pytest.mark.parametrize("key", sorted(make_report(make_job()).to_json()))
def test_missing_key_is_refused(key):
    document = make_report(make_job()).to_json()
    del document[key]
    with pytest.raises(ContractError, match=key):
        RawReport.from_json(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("samples_ns", []),
        ("samples_ns", [0]),
        ("load_ns", 0),
        ("load_ns", None),
        ("harness", "browser"),
        ("started_utc", "2026-11-20 12:00"),
        ("memory", {"baseline_bytes": 0, "peak_bytes": 0, "peak_above_imports_bytes": 0}),
    ],
)
def test_wrong_value_is_refused(key, value):
    with pytest.raises(ContractError, match=key):
        RawReport.from_json(make_report(make_job()).to_json() | {key: value})
