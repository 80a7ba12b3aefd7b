"""Two connections joined in memory, and hellos."""

import pytest

from p2p.messages import Hello
from p2p.noise import NodeKeys
from p2p.peer import Connection

CHAIN = b"\xc1" * 32


class Wire:
    """A client that dialled a server. ``events`` gathers what each side saw; time stands unless moved."""

    def __init__(self, make_hello, **options):
        self.now_ms = 1_000
        self.client_keys = NodeKeys(options.pop("client_seed", b"\x01" * 32))
        self.server_keys = NodeKeys(options.pop("server_seed", b"\x02" * 32))
        server_hello = options.pop("server_hello", make_hello(self.server_keys.identity, height=9))
        client_hello = options.pop("client_hello", make_hello(self.client_keys.identity, height=5))
        self.client = Connection(
            self.client_keys,
            lambda: client_hello,
            self.now_ms,
            initiator=True,
            ephemeral=b"\x11" * 32,
            **options,
        )
        self.server = Connection(
            self.server_keys, lambda: server_hello, self.now_ms, initiator=False, ephemeral=b"\x22" * 32
        )
        self.client_events = []
        self.server_events = []

    @staticmethod
    def drain(connection):
        data = b""
        while part := connection.wire():
            data += part
        return data

    def run(self, chunk=None):
        """Carry bytes both ways until neither side has any."""
        while True:
            moved = False
            for source, sink, events in (
                (self.client, self.server, self.server_events),
                (self.server, self.client, self.client_events),
            ):
                data = self.drain(source)
                size = chunk or max(1, len(data))
                for at in range(0, len(data), size):
                    moved = True
                    events.extend(sink.receive(data[at : at + size], self.now_ms))
            if not moved:
                return self

    def ready(self, chunk=None):
        self.run(chunk)
        self.client_events.clear()
        self.server_events.clear()
        return self


@pytest.fixture(scope="session")
def make_hello():
    def make(identity, *, chain_id=CHAIN, height=0, version=1):
        return Hello(version, chain_id, identity, height, b"\x07" * 32, 3, "wattd:test", 1_700_000_000, 4040)

    return make


@pytest.fixture(scope="session")
def make_wire(make_hello):
    return lambda **options: Wire(make_hello, **options)
