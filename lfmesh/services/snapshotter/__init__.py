"""The snapshotter: state of every stream of a shard, served to who asks, and its durable copy."""

from lfmesh.services.snapshotter.service import SnapshotterService
from lfmesh.services.snapshotter.statistics import SnapshotterStatistics

__all__ = ["SnapshotterService", "SnapshotterStatistics"]
