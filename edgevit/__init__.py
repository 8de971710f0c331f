"""edgevit: vision models from checkpoint to phone, board and server; what leaves the pipeline is what was trained.

The pipeline: checkpoint -> build -> deploy -> (qat) -> export -> convert -> verify -> package -> profile -> report.

    checkpoint  checkpoints/  weights and metadata, read safely
    build       models/       networks of papers, by family
    deploy      deploy/       exact inference-time rewrites of the trained graph (graph/)
    train, qat  training/, quantization/
    export      export/       graph to Program
    convert     conversion/   Program to artifact, by the plug-ins of targets/, which live in converters/
    verify      verification/ verify, evaluate, debug, qparams, lint
    package     artifacts/    the folder on disk, its documents in contract/
    profile     profiling/
    report      reporting/

Each command of the command line is one of the functions here, with the same keywords and defaults. They take paths,
names or objects, write what the command writes, and load their libraries when they are called: `import edgevit` costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgevit._version import __version__

if TYPE_CHECKING:
    from edgevit.app_bundle import bundle
    from edgevit.artifacts.artifact import Artifact, load_artifact
    from edgevit.artifacts.prediction import predict
    from edgevit.checkpoints.checkpoint import load_weights
    from edgevit.checkpoints.user_models import describe_module
    from edgevit.contract.job import TimingSettings
    from edgevit.conversion.pipeline import convert
    from edgevit.environment import doctor
    from edgevit.errors import EdgevitError, ParityError
    from edgevit.inventory import available
    from edgevit.model_summary import info
    from edgevit.models import create_model, iter_specs
    from edgevit.profiling.latency import compare, profile
    from edgevit.quantization.pruning import prune
    from edgevit.quantization.ptq import quantize
    from edgevit.quantization.qat import qat
    from edgevit.reporting.collect import report
    from edgevit.training.trainer import train
    from edgevit.verification.coreml_lint import lint
    from edgevit.verification.evaluation import evaluate
    from edgevit.verification.numeric_debugger import debug
    from edgevit.verification.qparams_report import qparams
    from edgevit.verification.verifier import verify

_HOMES = {
    "Artifact": "artifacts.artifact",
    "EdgevitError": "errors",
    "ParityError": "errors",
    "TimingSettings": "contract.job",
    "available": "inventory",
    "bundle": "app_bundle",
    "compare": "profiling.latency",
    "convert": "conversion.pipeline",
    "debug": "verification.numeric_debugger",
    "doctor": "environment",
    "evaluate": "verification.evaluation",
    "create_model": "models",
    "describe_module": "checkpoints.user_models",
    "info": "model_summary",
    "iter_specs": "models",
    "lint": "verification.coreml_lint",
    "load_artifact": "artifacts.artifact",
    "load_weights": "checkpoints.checkpoint",
    "predict": "artifacts.prediction",
    "profile": "profiling.latency",
    "prune": "quantization.pruning",
    "qat": "quantization.qat",
    "qparams": "verification.qparams_report",
    "quantize": "quantization.ptq",
    "report": "reporting.collect",
    "train": "training.trainer",
    "verify": "verification.verifier",
}
__all__ = sorted(_HOMES)
_RENAMED = {"scales": "qparams"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"edgevit.{name} is called edgevit.{_RENAMED[name]} now")
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgevit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
