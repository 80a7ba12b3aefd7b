"""What the node sees of the network: peers, their figures, and the handler that it implements."""

from dataclasses import dataclass
from typing import Protocol

from p2p.messages import Hello, Message


@dataclass(frozen=True, slots=True)
class Peer:
    """An authenticated peer, as handed to the handler.

    ``id`` is unique for the life of the process, one per connection; ``identity`` is the peer's
    Ed25519 key (32 bytes); ``address`` is "host:port"; ``pinned`` tells that ``add_peer`` named
    this identity.
    """

    id: int
    identity: bytes
    address: str
    inbound: bool
    pinned: bool
    hello: Hello


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """Figures of one connection, for operators. ``identity`` is hex; times are the given clock's."""

    id: int
    address: str
    inbound: bool
    pinned: bool
    identity: str
    height: int
    services: int
    user_agent: str
    bytes_sent: int
    bytes_received: int
    messages_sent: int
    messages_received: int
    messages_dropped: int
    unknown_messages: int
    send_queue_bytes: int
    ping_ms: int | None
    connected_at_ms: int
    score: int


class Handler(Protocol):
    """Implemented by the node. Called on the event loop: synchronous, and must be quick.

    A PeerFault raised by ``on_message`` is charged to the peer; any other exception is a bug and
    stops the network (``Network.failed``).
    """

    def on_peer_ready(self, peer: Peer) -> None:
        """Hellos have been exchanged; messages may be sent."""
        ...

    def on_peer_lost(self, peer: Peer, reason: str) -> None:
        """The connection is gone; ``reason`` is a code. Called once per ready peer."""
        ...

    def on_message(self, peer: Peer, message: Message) -> None:
        """A message arrived (hello, ping, pong and bye are handled below)."""
        ...


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """An address that the network dials for ever. ``pinned`` is the expected identity in hex, or ""."""

    address: str
    pinned: str
    connected: bool
    attempts: int
    last_error: str
