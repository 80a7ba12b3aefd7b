"""RPC methods of the device registry."""

from typing import Any

from contracts import queries
from node.rpc.backend import Backend
from node.rpc.energy import addressed, known_community
from node.rpc.registry import Key32, Text, method

SECTION = "Device"


@method("device.get", SECTION)
def get(node: Backend, device: Key32) -> dict[str, Any] | None:
    """Return a registered device by its Ed25519 key; null if there is none."""
    found = queries.device(node.state(), device)
    return None if found is None else addressed(found, node.params.addresses)


@method("device.list", SECTION)
def list_devices(node: Backend, community: Text | None = None) -> list[dict[str, Any]]:
    """Return all devices, or those of one community."""
    wanted = None if community is None else known_community(node, community)
    return addressed(queries.devices(node.state(), wanted), node.params.addresses)
