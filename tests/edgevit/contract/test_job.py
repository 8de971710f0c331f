import json

import pytest

from edgevit.contract.job import Job, read_job
from edgevit.contract.schema import load_schema
from edgevit.errors import ContractError, UsageError
from edgevit.infra.files import write_json
from tests.fakes import make_job

OPTIONAL = {"batch", "measure_stages", "sustain_s", "per_op"}


def test_job_survives_its_file(tmp_path):
    job = make_job(input="noise", warmup_s=0.25, sustain_s=60.5, record_outputs=True, measure_stages=True, per_op=True)
    write_json(tmp_path / "job.json", job.to_json())
    assert read_job(tmp_path / "job.json") == job


def test_every_field_is_in_the_schema_required_and_described():
    schema, document = load_schema("job"), make_job().to_json()
    assert set(schema["properties"]) == set(schema["required"]) | OPTIONAL == set(document)
    assert all({"title", "description"} <= set(field) for field in schema["properties"].values())


def test_optional_fields_have_defaults():
    document = make_job(batch=8, sustain_s=3.0, per_op=True, measure_stages=True).to_json()
    assert Job.from_json({key: value for key, value in document.items() if key not in OPTIONAL}) == make_job()


def test_unknown_key_is_ignored():
    document = make_job().to_json()
    assert Job.from_json(document | {"app_theme": "dark"}) == make_job()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("token", "a b"),
        ("artifact", "shelf/van"),
        ("artifact", ".."),
        ("artifact_sha256", "ABC"),
        ("threads", 0),
        ("threads", "2"),
        ("runs", 1.5),
        ("batch", 0),
        ("min_s", -1),
        ("schema_version", 3),
        ("accelerator", "tpu"),
    ],
)
def test_wrong_value_is_refused_by_name(key, value):
    with pytest.raises(ContractError, match=f"job: {key}: "):
        Job.from_json(make_job().to_json() | {key: value})


@pytest.mark.parametrize("key", sorted(make_job().to_json().keys() - OPTIONAL))
def test_missing_key_is_refused(key):
    document = make_job().to_json()
    del document[key]
    with pytest.raises(ContractError, match=key):
        Job.from_json(document)


@pytest.mark.parametrize(
    "changes", [{"accelerator": "tpu"}, {"threads": 0}, {"runs": 0}, {"batch": 0}, {"warmup_s": -1.0}, {"max_s": 0.0}]
)
def test_impossible_job_is_a_usage_error(changes):
    with pytest.raises(UsageError):
        make_job(**changes)


def test_cap_below_the_least_time_is_a_usage_error():
    with pytest.raises(UsageError, match="max_s 5 cuts off the 60 s"):
        make_job(min_s=60.0, max_s=5.0)


def test_document_is_plain_json():
    document = make_job().to_json()
    assert json.loads(json.dumps(document)) == document
