"""What the node sees of the network: peers, their figures, and the handler that it implements."""

from dataclasses import dataclass
from typing import Protocol, Self

from p2p.messages import Hello, Message
from p2p.peer import Connection


@dataclass(frozen=True, slots=True)
class Peer:
    """An authenticated peer, as handed to the handler.

    ``id`` is unique for the life of the process, one per connection; ``identity`` is the peer's
    Ed25519 key (32 bytes); ``address`` is "host:port"; ``pinned`` tells that this identity
    had a place of its own when it was connected: ``add_peer`` or ``protect`` had named it.
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

    @classmethod
    def of(
        cls, peer: Peer, connection: Connection, pinned: bool, height: int, connected_at_ms: int, score: int
    ) -> Self:
        """Return the figures of a peer; whether it is ``pinned`` may have changed since it was connected."""
        return cls(
            id=peer.id,
            address=peer.address,
            inbound=peer.inbound,
            pinned=pinned,
            identity=peer.identity.hex(),
            height=height,
            services=peer.hello.services,
            user_agent=peer.hello.user_agent,
            bytes_sent=connection.bytes_sent,
            bytes_received=connection.bytes_received,
            messages_sent=connection.messages_sent,
            messages_received=connection.messages_received,
            messages_dropped=connection.messages_dropped,
            unknown_messages=connection.unknown_messages,
            send_queue_bytes=connection.queued_bytes,
            ping_ms=connection.ping_ms,
            connected_at_ms=connected_at_ms,
            score=score,
        )


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
