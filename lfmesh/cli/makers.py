"""How each role's service is built: the one place where the command line meets the services. Imports are late."""

from lfmesh.config import Config
from lfmesh.ports import Context, Service
from lfmesh.services.runtime import Make
from lfmesh.types import Role


def maker(role: Role, shard: int | None) -> Make:
    """What builds the service of a role; `shard` is needed by normalizer and snapshotter only."""

    def make(config: Config, context: Context) -> Service:
        match role:
            case Role.REGISTRY:
                from lfmesh.services.registry import RegistryService

                return RegistryService(config, context)
            case Role.INGESTOR:
                from lfmesh.services.ingestor import IngestorService

                return IngestorService(config, context)
            case Role.NORMALIZER:
                from lfmesh.services.normalizer import NormalizerService

                assert shard is not None
                return NormalizerService(config, context, shard)
            case Role.SNAPSHOTTER:
                from lfmesh.services.snapshotter import SnapshotterService

                assert shard is not None
                return SnapshotterService(config, context, shard)
            case Role.GATEWAY:
                from lfmesh.services.gateway import GatewayService

                return GatewayService(config, context)

    return make


def import_services() -> None:
    """Import every service, so that what is forked later need not."""
    import lfmesh.services.gateway
    import lfmesh.services.ingestor
    import lfmesh.services.normalizer
    import lfmesh.services.registry
    import lfmesh.services.snapshotter  # noqa: F401 - imported to be there
