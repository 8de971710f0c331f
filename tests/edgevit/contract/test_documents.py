"""The shared accept and refuse documents through the readers that the product uses; Kotlin and Swift read the same."""

from __future__ import annotations

import shutil

import pytest

from edgevit.contract.job import read_job
from edgevit.contract.manifest import read_manifest
from edgevit.contract.raw_report import read_raw_report
from edgevit.errors import ContractError
from tests.contract.make_documents import ALL, DOCUMENTS, contents

FILES = sorted(DOCUMENTS.glob("*/*.json"))


def read(path, folder):
    """A document with its own reader; a manifest lies in an artifact folder under its own name."""
    if path.parent.name == "manifest":
        shutil.copy(path, folder / "manifest.json")
        return read_manifest(folder)
    return {"job": read_job, "raw_report": read_raw_report}[path.parent.name](path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_reader_gives_the_verdict_in_the_name(path, tmp_path):
    if path.name.startswith("accept_"):
        document = read(path, tmp_path)
        assert type(document).from_json(document.to_json()) == document
    else:
        assert path.name.startswith("refuse_")
        with pytest.raises(ContractError) as refused:
            read(path, tmp_path)
        assert len(str(refused.value).splitlines()) == 1
        assert str(refused.value).isprintable()
        assert refused.value.fix


def test_files_are_those_of_their_tables():
    found = {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in FILES}
    wanted = {f"{kind}/{name}": contents(document) for kind, rows in ALL.items() for name, document in rows.items()}
    assert found.keys() == wanted.keys()
    assert [name for name, data in found.items() if data != wanted[name]] == [], "run make goldens"


@pytest.mark.parametrize("kind", ALL)
def test_each_kind_has_many_documents_of_both_verdicts(kind):
    assert sum(name.startswith("accept_") for name in ALL[kind]) >= 10
    assert sum(name.startswith("refuse_") for name in ALL[kind]) >= 50
