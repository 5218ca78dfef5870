"""The normalizer: validation, books, positions; one process a shard."""

from lfmesh.services.normalizer.service import NormalizerService
from lfmesh.services.normalizer.statistics import NormalizerStatistics

__all__ = ["NormalizerService", "NormalizerStatistics"]
