"""Converted artifacts that many tests share: each is converted once, for all workers of pytest together."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import edgevit
from edgevit.artifacts.artifact import Artifact, load_artifact
from tests.tiny import TinyClassifier, TinySegmenter, classifier_spec, seeded, segmenter_spec


def _shared(tmp_path_factory: pytest.TempPathFactory, name: str, convert: Callable[[Path], Artifact]) -> Artifact:
    """What `convert` makes in the folder that it is given, made by the first worker that asks."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            unfinished = folder.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that failed
            convert(unfinished)
            unfinished.rename(folder)
    (artifact,) = (path.parent for path in folder.glob("*/manifest.json"))  # beside it lie results of tests
    return load_artifact(artifact)


@pytest.fixture(scope="session")
def classifier_artifact(tmp_path_factory) -> Artifact:
    """TinyClassifier in ExecuTorch with labels; read only."""
    labels = ("ant", "bee", "cat", "dog", "eel")
    spec = classifier_spec()
    return _shared(
        tmp_path_factory,
        "classifier",
        lambda out: edgevit.convert(seeded(TinyClassifier), spec=spec, target="executorch", labels=labels, out=out),
    )


@pytest.fixture(scope="session")
def segmenter_artifact(tmp_path_factory) -> Artifact:
    """TinySegmenter in ExecuTorch; read only."""
    spec = segmenter_spec()
    return _shared(
        tmp_path_factory,
        "segmenter",
        lambda out: edgevit.convert(seeded(TinySegmenter), spec=spec, target="executorch", out=out),
    )


@pytest.fixture
def classifier_copy(classifier_artifact, tmp_path) -> Artifact:
    """A copy of the classifier's folder that a test may damage."""
    folder = tmp_path / "copies" / classifier_artifact.name
    shutil.copytree(classifier_artifact.path, folder)
    return load_artifact(folder)


@pytest.fixture
def my_model(tmp_path) -> Path:
    """A user's own file with factories, good and bad."""
    path = tmp_path / "my_model.py"
    path.write_text(
        "from torch import nn\n"
        "def build(num_classes=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),\n"
        "                         nn.Flatten(), nn.Linear(8, num_classes))\n"
        "def three_outputs():\n"
        "    return nn.Conv1d(3, 3, 1)\n"
        "def no_module():\n"
        "    return 5\n"
        "number = 3\n"
    )
    return path


@pytest.fixture(autouse=True)
def _own_log():
    """The command line sends log lines to stderr; what one test configured must not reach the next."""
    logger = logging.getLogger("edgevit")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
