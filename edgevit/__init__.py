"""edgevit: vision models from checkpoint to phone, board and server; what leaves the pipeline is what was trained.

The public functions load their libraries when they are called, so `import edgevit` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from edgevit.artifact import Artifact, load_artifact
    from edgevit.bundling import bundle
    from edgevit.diagnosis import doctor
    from edgevit.errors import EdgevitError, ParityError
    from edgevit.evaluation import evaluate
    from edgevit.layer_errors import debug
    from edgevit.models import create_model, iter_specs
    from edgevit.pipeline import convert
    from edgevit.prediction import predict
    from edgevit.profiling import compare, profile
    from edgevit.quantization.inspection import scales
    from edgevit.quantization.pruning import prune
    from edgevit.quantization.ptq import quantize
    from edgevit.quantization.qat import qat
    from edgevit.reporting import report
    from edgevit.sources import describe_module
    from edgevit.training.checkpoint import load_weights
    from edgevit.training.trainer import train
    from edgevit.verification import verify

_HOMES = {
    "Artifact": "artifact",
    "EdgevitError": "errors",
    "ParityError": "errors",
    "bundle": "bundling",
    "compare": "profiling",
    "convert": "pipeline",
    "debug": "layer_errors",
    "doctor": "diagnosis",
    "evaluate": "evaluation",
    "create_model": "models",
    "describe_module": "sources",
    "iter_specs": "models",
    "load_artifact": "artifact",
    "load_weights": "training.checkpoint",
    "predict": "prediction",
    "profile": "profiling",
    "prune": "quantization.pruning",
    "qat": "quantization.qat",
    "quantize": "quantization.ptq",
    "report": "reporting",
    "scales": "quantization.inspection",
    "train": "training.trainer",
    "verify": "verification",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgevit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgevit.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
