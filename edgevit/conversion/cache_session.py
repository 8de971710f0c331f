"""One conversion's dealings with the cache: what it may take from there, and what it may leave there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.checkpoints.model_source import warn_of_random_weights
from edgevit.checkpoints.user_models import is_file_model, split_factory
from edgevit.conversion.cache import open_cache
from edgevit.conversion.cache_key import conversion_key
from edgevit.conversion.file_tracking import record_dependencies
from edgevit.log import logger
from edgevit.targets.registry import converter_package
from edgevit.verification.checks import describe_parity

if TYPE_CHECKING:
    from edgevit.artifacts.artifact import Artifact
    from edgevit.conversion.request import ConversionRequest


class CacheSession:
    """Fetches and keeps the artifacts of one request, each target under a key of its own.

    A model in memory is neither fetched nor kept: its weights have a hash, but the code behind it has none that can be
    trusted.
    """

    def __init__(self, request: ConversionRequest) -> None:
        self._request = request
        self._cache = open_cache() if request.cache and isinstance(request.model, str) else None
        self._dependencies: dict[str, str] = {}
        self._keys = {target: conversion_key(request, target) for target in request.targets} if self._cache else {}
        if not any(self._keys.values()):
            self._cache = None

    def fetch(self) -> dict[str, Artifact]:
        """The targets that were made from the same input before, now in the folder for artifacts.

        Raises StorageError.
        """
        found: dict[str, Artifact] = {}
        if self._cache is None:
            return found
        for target, key in self._keys.items():
            started = time.perf_counter()
            artifact = None if key is None else self._cache.fetch(key, self._request.out)
            if artifact is not None:
                found[target] = artifact
                manifest = artifact.manifest
                logger.info(
                    "%-9s model=%s target=%s %.1f s: %s %.1f MB, %s, made on %s",
                    "cached",
                    manifest.model.name,
                    target,
                    time.perf_counter() - started,
                    artifact.path,
                    manifest.entry_size_bytes / 1e6,
                    describe_parity(manifest.parity, manifest.compression),
                    manifest.provenance.created_utc,
                )
        if found and len(found) == len(self._keys) and self._request.weights is None:
            warn_of_random_weights(next(iter(found.values())).manifest.model.name)
        return found

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Around the loading of the model: notes which files a user's own code reads."""
        model = self._request.model
        if self._cache is None or not isinstance(model, str) or not is_file_model(model):
            yield
            return
        weights = self._request.weights
        declared = (split_factory(model)[0], weights, *self._request.goldens)
        files = tuple(path for path in declared if isinstance(path, Path))
        packages = ("edgevit", *{converter_package(target) for target in self._request.targets})
        with record_dependencies(packages, files, weights_given=weights is not None) as recorded:
            yield
        self._dependencies = recorded.files
        if recorded.doubt:
            logger.info("%-9s not kept for the next time: %s", "cache", recorded.doubt)
            self._cache = None

    def keep(self, target: str, artifact: Artifact, manifest_sha256: str) -> None:
        """Store a fresh artifact, unless an input or the code was edited while it was made."""
        key = self._keys.get(target)
        if self._cache is not None and key is not None and conversion_key(self._request, target) == key:
            self._cache.store(key, artifact, manifest_sha256, self._dependencies)
