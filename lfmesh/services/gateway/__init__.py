"""L3: the gateway, which serves WebSocket and HTTP clients."""

from lfmesh.services.gateway.service import GatewayService

__all__ = ["GatewayService"]
