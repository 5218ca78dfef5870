"""The registry: who lives in the mesh, and where. Replicas are many and never talk to each other."""

from lfmesh.services.registry.service import RegistryService, RegistryStatistics

__all__ = ["RegistryService", "RegistryStatistics"]
