"""One conversion's dealings with the cache: what it may take from there, and what it may leave there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgevit.artifacts.artifact import Artifact
from edgevit.checkpoints.model_source import is_file_model, split_factory, warn_of_random_weights
from edgevit.conversion.cache import open_cache
from edgevit.conversion.cache_key import conversion_key
from edgevit.conversion.file_tracking import record_dependencies
from edgevit.log import logger
from edgevit.targets.registry import converter_package
from edgevit.verification.checks import describe_parity


class Reuse:
    """Fetches and keeps the artifacts of one call of `convert`, each target under a key of its own.

    requests: target -> converter options; arguments: everything else that is plain data. A model in memory is
    neither fetched nor kept: its weights have a hash, but the code behind it has none that can be trusted.
    """

    def __init__(
        self,
        model: object,
        weights: str | Path | None,
        goldens: Sequence[object],
        arguments: Mapping[str, Any],
        requests: Mapping[str, Mapping[str, Any]],
        *,
        wanted: bool,
    ) -> None:
        files = [path for path in (weights, *goldens) if path is not None]
        usable = isinstance(model, str) and all(isinstance(path, (str, Path)) for path in files)
        self._cache = open_cache() if wanted and usable else None
        self._model, self._weights, self._requests = model, weights, requests
        self._dependencies: dict[str, str] = {}
        if self._cache is None:
            return
        self._files = [Path(path) for path in files]
        self._arguments = {**arguments, "model": model, "has_weights": weights is not None}
        if is_file_model(model):
            path, attribute = split_factory(model)
            self._files.append(path)
            # Its imports and relative paths are looked up from here.
            place = [str(path.resolve()), attribute, os.getcwd(), sys.path]
            self._arguments["model"] = place
        self._keys = {target: self._key(target) for target in requests}

    def fetch(self, out: Path) -> dict[str, Artifact]:
        """The targets that were made from the same input before, now in `out`. Raises StorageError."""
        found = {}
        for target in self._requests if self._cache is not None else ():
            started = time.perf_counter()
            key = self._keys[target]
            artifact = None if key is None else self._cache.fetch(key, out)
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
                    manifest.provenance["created_utc"],
                )
        if found and len(found) == len(self._requests) and self._weights is None:
            warn_of_random_weights(manifest.model.name)
        return found

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Around the loading of the model: notes which files a user's own code reads."""
        if self._cache is None or not is_file_model(self._model):
            yield
            return
        packages = ("edgevit", *{converter_package(target) for target in self._requests})
        given = self._weights is not None
        with record_dependencies(packages, tuple(self._files), weights_given=given) as recorded:
            yield
        self._dependencies = recorded.files
        if recorded.doubt:
            logger.info("%-9s not kept for the next time: %s", "cache", recorded.doubt)
            self._cache = None

    def keep(self, target: str, artifact: Artifact, manifest_sha256: str) -> None:
        """Store a fresh artifact, unless an input or the code was edited while it was made."""
        if self._cache is not None and self._keys[target] is not None and self._key(target) == self._keys[target]:
            self._cache.store(self._keys[target], artifact, manifest_sha256, self._dependencies)

    def _key(self, target: str) -> str | None:
        arguments = {**self._arguments, "options": self._requests[target]}
        return conversion_key(target, arguments, self._files)
