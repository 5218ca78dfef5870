"""The ingestor: the venue's feed, numbered and pushed to the normalizers, retained for replay."""

from lfmesh.services.ingestor.service import IngestorService
from lfmesh.services.ingestor.statistics import IngestorStatistics

__all__ = ["IngestorService", "IngestorStatistics"]
