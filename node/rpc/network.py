"""RPC methods on the network."""

from typing import Any

from node.clock import Clock
from node.rpc.backend import Backend
from node.rpc.encoding import coins
from node.rpc.registry import method
from node.version import version_number
from p2p.messages import SERVICE_BLOCKS, SERVICE_LIMITED, SERVICE_VALIDATOR

SECTION = "Network"

_SERVICE_NAMES = {
    SERVICE_BLOCKS: "NETWORK",
    SERVICE_VALIDATOR: "VALIDATOR",
    SERVICE_LIMITED: "NETWORK_LIMITED",
}


def _services(bits: int) -> dict[str, Any]:
    names = [name for bit, name in _SERVICE_NAMES.items() if bits & bit]
    return {"hex": f"{bits:016x}", "names": names}


@method("getpeerinfo", SECTION)
def get_peer_info(node: Backend) -> list[dict[str, Any]]:
    """Return the connected peers. ``identity`` is the peer's Ed25519 key, proven in the handshake."""
    now_s, now_ms = Clock.unix_ns() // 1_000_000_000, Clock.monotonic_ms()
    shapes = []
    for peer in node.peers():
        services = _services(peer.services)
        shape: dict[str, Any] = {
            "id": peer.id,
            "addr": peer.address,
            "network": "not_publicly_routable",
            "services": services["hex"],
            "servicesnames": services["names"],
            "relaytxes": True,
            "bytessent": peer.bytes_sent,
            "bytesrecv": peer.bytes_received,
            "conntime": now_s - (now_ms - peer.connected_at_ms) // 1000,
            "timeoffset": 0,
        }
        if peer.ping_ms is not None:
            shape["pingtime"] = peer.ping_ms / 1000
        shapes.append(
            {
                **shape,
                "subver": peer.user_agent,
                "inbound": peer.inbound,
                "synced_headers": peer.height,
                "synced_blocks": peer.height,
                "connection_type": _connection_type(peer.inbound, peer.pinned),
                "transport_protocol_type": "noise",
                "identity": peer.identity,
                "misbehaviour": peer.score,
            }
        )
    return shapes


def _connection_type(inbound: bool, pinned: bool) -> str:
    if inbound:
        return "inbound"
    return "manual" if pinned else "outbound-full-relay"


@method("getnetworkinfo", SECTION)
def get_network_info(node: Backend) -> dict[str, Any]:
    """Return how this node appears on the network. ``identity`` is our Ed25519 key."""
    info, peers = node.network_info(), node.peers()
    inbound = sum(peer.inbound for peer in peers)
    services = _services(info.services)
    floor = coins(node.params.ledger.min_fee_per_kvb)
    listen = info.listen
    return {
        "version": version_number(),
        "subversion": info.user_agent,
        "protocolversion": info.protocol_version,
        "localservices": services["hex"],
        "localservicesnames": services["names"],
        "localrelay": True,
        "timeoffset": 0,
        "networkactive": True,
        "connections": len(peers),
        "connections_in": inbound,
        "connections_out": len(peers) - inbound,
        "networks": [],
        "relayfee": floor,
        "incrementalfee": floor,
        "localaddresses": [] if listen is None else [{"address": listen[0], "port": listen[1], "score": 1}],
        "identity": info.identity.hex(),
        "warnings": [],
    }


@method("getconnectioncount", SECTION)
def get_connection_count(node: Backend) -> int:
    """Return the number of connected peers."""
    return len(node.peers())
