"""ExecuTorch files as users have them, right ones and wrong ones: how convert, verify and bundle treat each."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import edgevit
from converters.executorch import converter as executorch
from converters.executorch import runtime_settings
from edgevit import app_bundle
from edgevit.artifacts.artifact import Artifact, file_entries, load_artifact
from edgevit.cli.main import main
from edgevit.deploy.pass_manager import deploy
from edgevit.errors import MissingDependency, ParityError, UsageError
from edgevit.export.export_program import export
from edgevit.verification.phone_settings import Execution
from tests.phone_networks import network
from tests.tiny import classifier_spec

IN_PLACE = "constants that are freed once the file is loaded are read in place: PReLU"


def run(capsys, *arguments):
    """Exit code, stdout, and the error line with its fix, of one command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
        sys.exit(0)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith(("error:", "  fix:"))]
    assert len(lines) in (0, 2), captured.err
    assert "Traceback" not in captured.err
    return ended.value.code or 0, captured.out, " ".join(lines)


@pytest.fixture(scope="module")
def right(tmp_path_factory) -> Artifact:
    """A network with nn.PReLU, converted into a folder with spaces in its path; read only."""
    out = tmp_path_factory.mktemp("right files")
    return edgevit.convert(network("slopes"), spec=classifier_spec(), target="executorch", out=out)


@pytest.fixture(scope="module")
def wrong(right, tmp_path_factory) -> Artifact:
    """The same as it was made before: slopes inside the delegate. Its manifest claims what the right one's does."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    folder = tmp_path_factory.mktemp("wrong") / right.name
    shutil.copytree(right.path, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executorch, "xnnpack_partitioner", XnnpackPartitioner)
        program = export(deploy(network("slopes").eval(), classifier_spec())[0], classifier_spec())
        network_on_maps_alone(patch)
        executorch.CONVERTER.convert(program, executorch.CONVERTER.Options(), folder)
    document = json.loads((folder / "manifest.json").read_text())
    document["files"] = [{"path": f.path, "sha256": f.sha256, "size_bytes": f.size_bytes} for f in file_entries(folder)]
    (folder / "manifest.json").write_text(json.dumps(document))
    return load_artifact(folder)


def network_on_maps_alone(patch) -> None:
    """ExecuTorch's own PReLU takes feature maps alone: vectors go to the portable kernels, as ours do."""
    from executorch.backends.xnnpack.partition.config.node_configs import PreluConfig

    check = PreluConfig.check_constraints
    patch.setattr(
        PreluConfig,
        "check_constraints",
        lambda self, node, ep: node.args[0].meta["val"].dim() == 4 and check(self, node, ep),
    )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> dict[str, Path]:
    """Files made by ExecuTorch alone: one that is wrong on phones, one that is right, one without any delegate."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    folder, found = tmp_path_factory.mktemp("of others"), {}
    for name, case, partitioner in (
        ("wrong", "broken", [XnnpackPartitioner()]),
        ("right", "repeated", [XnnpackPartitioner()]),
        ("without delegate", "repeated", []),
    ):
        exported = torch.export.export(network(case), (torch.zeros(1, 3, 32, 32),))
        found[name] = folder / f"{name}.pte"
        found[name].write_bytes(to_edge_transform_and_lower(exported, partitioner=partitioner).to_executorch().buffer)
    return found


@pytest.fixture
def few_settings(monkeypatch):
    """The first and the last but one: a file that ends the process costs a process for each."""
    chosen = (runtime_settings.SETTINGS[0], runtime_settings.SETTINGS[-2])
    monkeypatch.setattr(executorch.ExecuTorchConverter, "settings", chosen)


@pytest.fixture
def checkout(tmp_path) -> Path:
    for app in ("android", "ios"):
        (tmp_path / "apps" / app).mkdir(parents=True)
    return tmp_path


def test_conversion_runs_a_file_under_every_setting_before_it_appears(right):
    rows = right.manifest.executed
    assert len(rows) == len(executorch.CONVERTER.settings) == 12
    assert {row.outcome for row in rows} <= {"equal", "within"}
    assert right.manifest.checks["phone settings"] == "right under 12 of 12 settings of phones"
    assert "all named by their packing" in right.manifest.checks["packing"]


def test_verify_shows_each_setting_and_leaves_the_folder_as_it_was(right, capsys, tmp_path):
    before = file_entries(right.path)
    code, out, _ = run(capsys, "verify", right.path, "--out", tmp_path)
    assert code == 0
    assert (out.count(" mmap "), out.count(" file ")) == (6, 6)
    assert "under the settings of phones, executorch 1.4" in out
    assert file_entries(right.path) == before
    document = json.loads((tmp_path / f"{right.name}.verify.json").read_text())
    assert len(document["executed"]) == 12


@pytest.mark.usefixtures("few_settings")
def test_wrong_file_fails_whatever_its_manifest_claims(wrong, capsys, tmp_path):
    assert len(wrong.manifest.executed) == 12  # forged
    code, out, error = run(capsys, "verify", wrong.path, "--out", tmp_path)
    assert code == 5
    assert IN_PLACE in error
    assert "convert the module again" in error
    assert "signal SIGSEGV" in out
    assert (tmp_path / f"{wrong.name}.verify.json").is_file()  # a miss is a result, too
    with pytest.raises(ParityError, match="is wrong on phones"):
        edgevit.verify(wrong)


@pytest.mark.usefixtures("few_settings")
def test_bundling_takes_the_right_file_and_refuses_the_wrong_one(right, wrong, checkout, capsys):
    code, out, _ = run(capsys, "bundle", "android", right.path, "--root", checkout)
    assert code == 0
    assert "weights cache  workspace sharing  load" in out
    code, _, error = run(capsys, "bundle", "ios", wrong.path, "--root", checkout, "--unverified")
    assert code == 5
    assert IN_PLACE in error
    assert not (checkout / "apps/ios/App").exists()


def test_bundling_where_settings_cannot_be_switched_asks_for_the_flag(right, checkout, monkeypatch, caplog):
    unproven = Execution((), unproven="the switches are known for another version")
    monkeypatch.setattr(app_bundle, "execution_of", lambda artifact: unproven)
    with pytest.raises(UsageError, match="was not run under the settings of phones: the switches are known"):
        edgevit.bundle("android", right, root=checkout)
    with caplog.at_level("WARNING", logger="edgevit"):
        assert edgevit.bundle("android", right, root=checkout, unverified=True).path.is_dir()
    assert "goes into the app unverified" in caplog.text


def test_bundling_without_the_runtime_asks_for_the_flag(right, checkout, monkeypatch):
    def missing(artifact):
        raise MissingDependency("executorch needs the Python package executorch, which is not installed")

    monkeypatch.setattr(app_bundle, "audit_of", missing)
    with pytest.raises(UsageError, match="which is not installed"):
        edgevit.bundle("android", right, root=checkout)
    assert edgevit.bundle("android", right, root=checkout, unverified=True).path.is_dir()


@pytest.mark.usefixtures("few_settings")
def test_file_of_others_that_is_wrong_on_phones_is_refused(foreign, checkout, capsys, tmp_path):
    code, out, error = run(capsys, "verify", foreign["wrong"], "--out", tmp_path / "results")
    assert code == 5
    assert f"{foreign['wrong'].name} is wrong on phones: {IN_PLACE}" in error
    assert "it came without a manifest" in out
    assert run(capsys, "bundle", "android", foreign["wrong"], "--root", checkout)[0] == 5


@pytest.mark.parametrize("name", ["right", "without delegate"])
def test_file_of_others_that_is_right_passes_but_no_app_can_read_it(foreign, name, checkout, capsys, tmp_path):
    code, out, _ = run(capsys, "verify", foreign[name], "--out", tmp_path / "results")
    assert code == 0
    assert "right under 12 of 12 settings of phones" in out
    document = json.loads((tmp_path / f"results/{foreign[name].name}.verify.json").read_text())
    assert document["checks"]["packing"].startswith(f"{0 if 'without' in name else 2} XNNPACK delegates")
    code, _, error = run(capsys, "bundle", "android", foreign[name], "--root", checkout)
    assert code == 2
    assert "came without a manifest" in error


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"not a program at all"])
def test_damaged_file_without_a_manifest_is_one_line(foreign, damage, capsys, tmp_path):
    path = tmp_path / "damaged.pte"
    path.write_bytes(damage(foreign["right"].read_bytes()))
    code, _, error = run(capsys, "verify", path, "--out", tmp_path / "results")
    assert code in (6, 7)
    assert "damaged.pte" in error


def test_file_with_more_methods_or_arguments_than_tensors_is_one_line(capsys, tmp_path):
    from executorch.exir import to_edge_transform_and_lower

    class Scaled(torch.nn.Module):
        def forward(self, x, by: int):
            return x * by

    def exported(module, *inputs):
        return torch.export.export(module.eval(), inputs)

    one, zeros = exported(torch.nn.ReLU(), torch.zeros(1, 3)), torch.zeros(1, 3)
    for name, programs, says in (
        ("methods", {"forward": one, "other": one}, "its methods are forward, other"),
        ("scalar", exported(Scaled(), zeros, 3), "cannot run"),
    ):
        path = tmp_path / f"{name}.pte"
        path.write_bytes(to_edge_transform_and_lower(programs).to_executorch().buffer)
        code, _, error = run(capsys, "verify", path, "--out", tmp_path / "results")
        assert code == 6
        assert says in error
