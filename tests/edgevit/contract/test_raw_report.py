import dataclasses
import json

import numpy as np
import pytest

from edgevit.contract.raw_report import (
    App,
    Battery,
    BatteryState,
    BeforeAfter,
    DeviceInfo,
    Failure,
    Instructions,
    Memory,
    Operation,
    Phase,
    RawReport,
    RecordedTensor,
    Stages,
    Thermal,
    read_raw_report,
)
from edgevit.contract.schema import load_schema
from edgevit.errors import ContractError
from edgevit.infra.files import write_json
from tests.fakes import make_job, make_report


def full_report() -> RawReport:
    """Everything that a phone can measure."""
    job = make_job(measure_stages=True, per_op=True, record_outputs=True)
    charge = BatteryState(81.0, 31.5, charging=False)
    return dataclasses.replace(
        make_report(job),
        harness="app",
        functional=False,
        device=DeviceInfo(
            "Fakephone 3", "Android", "16", None, 8, "arm64", 8 << 30, None, "Fakephone", "FK3", "BP2A.250605", 16384
        ),
        app=App("2.0", "0" * 40, debuggable=False),
        cached_load_ns=900_000,
        cached_first_ns=1_200_000,
        sample_start_ns=(0, 1_100_000, 2_300_000),
        stages=Stages((10, 11, 12), (900_000, 950_000, 980_000), (5, 6, 7)),
        memory=Memory(100, 150),
        thermal=Thermal(0, 1, ((0, 0), (1_000_000_000, 1))),
        battery=Battery(charge, None),
        frequency_khz=BeforeAfter(2_400_000, 1_800_000),
        instructions=Instructions(612_000_000, 0, None, 255_000_000, 0),
        ops=(Operation("conv", "stem.0", 12_000, delegated=True), Operation("softmax", None, None, delegated=None)),
        outputs=(RecordedTensor.of("logits", np.arange(6, dtype=np.float32).reshape(2, 3)),),
        flags=("load average above cores",),
    )


def test_everything_a_phone_measures_survives_its_file(tmp_path):
    write_json(tmp_path / "raw_report.json", full_report().to_json())
    assert read_raw_report(tmp_path / "raw_report.json") == full_report()


def test_report_survives_its_file(tmp_path):
    tensor = RecordedTensor.of("logits", np.arange(6, dtype=np.float32).reshape(2, 3))
    report = dataclasses.replace(
        make_report(make_job()), outputs=(tensor,), memory=Memory(100, 150), flags=("load average above cores",)
    )
    write_json(tmp_path / "raw_report.json", report.to_json())
    assert read_raw_report(tmp_path / "raw_report.json") == report


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


def test_every_field_is_in_the_schema_and_described():
    schema, document = load_schema("raw_report"), full_report().to_json()
    assert set(schema["properties"]) == set(document)
    assert all({"title", "description"} <= set(field) for _, field in described(schema))
    for name, field in schema["properties"].items():
        if "properties" in field and document[name] is not None and name != "job":
            assert set(field["properties"]) == set(document[name]), name


def test_what_was_not_measured_may_be_null_or_absent():
    schema, plain = load_schema("raw_report"), make_report(make_job())
    document = plain.to_json()
    optional = set(document) - set(schema["required"])
    assert {key for key in optional if document[key] not in (None, False)} == set()
    assert RawReport.from_json({key: document[key] for key in schema["required"]}) == plain


def test_peak_above_imports_is_unknown_where_either_reading_is():
    assert Memory(None, 5).peak_above_imports_bytes is None
    assert Memory(5, None).peak_above_imports_bytes is None
    assert Memory(3, 5).peak_above_imports_bytes == 2


def test_recorded_tensor_is_little_endian_in_c_order():
    array = np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))
    tensor = RecordedTensor.of("mask", array)
    assert tensor.data == np.arange(6, dtype="<i4").tobytes()
    assert np.array_equal(tensor.array(), array)


def test_unknown_keys_are_ignored():
    document = make_report(make_job()).to_json()
    assert RawReport.from_json(document | {"ambient_c": 21}) == make_report(make_job())


def test_run_that_ended_early_says_where_and_has_no_latency():
    ended = dataclasses.replace(
        make_report(make_job()),
        first_ns=None,
        warmup_ns=(),
        samples_ns=(),
        parity=None,
        failure=Failure(Phase.FIRST, "out of memory"),
    )
    document = ended.to_json()
    assert document["complete"] is False
    assert RawReport.from_json(document) == ended
    assert ended.why_no_latency == "first failed: out of memory"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"functional": True}, "the machine was emulated"),
        ({"parity": None}, "its outputs were not compared"),
    ],
)
def test_times_are_shown_only_of_real_machines_whose_outputs_were_compared(changes, why):
    assert dataclasses.replace(make_report(make_job()), **changes).why_no_latency == why


@pytest.mark.parametrize("key", sorted(load_schema("raw_report")["required"]))
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
