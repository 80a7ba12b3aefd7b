"""Targets of the network: peer messages, encrypted connections, consensus messages and the engine itself."""

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from consensus.bft import codec, statements, wal
from consensus.bft.engine import step
from consensus.bft.evidence import check_evidence, decode_evidence, encode_evidence, evidence_of
from consensus.bft.shown import SHOWN, Given, Signed
from consensus.bft.state import CommittedTip, State, checkpoint, restore
from consensus.bft.types import (
    Accuse,
    BlockAvailable,
    Broadcast,
    Build,
    Built,
    Censored,
    Check,
    Checked,
    Message,
    Misbehaviour,
    PendingWork,
    Persist,
    Received,
    RoundRecord,
    Send,
    TimerFired,
)
from consensus.errors import PeerFault, RuleError
from p2p import limits, messages
from p2p.framing import frame, record
from p2p.messages import Hello
from p2p.noise import NodeKeys
from p2p.peer import Closed, Connection, Fault, Greeted, Secured, Throttle
from p2p.peer import Received as Heard
from p2p.peer import State as Stage
from tests.fuzz.mutate import mutate_bytes, mutate_msgpack
from tests.fuzz.runner import Target, ensure
from tests.simulation.cluster import CHEAP, Cluster, config_of, make_proposal

H = bytes(range(32))
CHAIN = b"\xc1" * 32


# --- messages between peers -------------------------------------------------------------------------


def sample_messages() -> list[messages.Message]:
    return [
        Hello(1, CHAIN, NodeKeys(b"\x01" * 32).identity, 7, H, 3, "wattd:test", 1_700_000_000, 4040),
        messages.Ping(2**64 - 1),
        messages.Pong(1),
        messages.Inv(messages.KIND_TX, [H] * 40),
        messages.GetData(messages.KIND_BLOCK, [H]),
        messages.Tx([b"\x02" * 200, b"\x01"]),
        messages.NotFound(messages.KIND_BLOCK, [H]),
        messages.Status(5, H),
        messages.GetBlocks(1, 500),
        messages.Blocks(1, [b"\x03" * 100] * 3, b"cert"),
        messages.GetBody(H),
        messages.Body(H, b"\x03" * 100),
        messages.Body(H, None),
        messages.GetTxs(H, [H, H[::-1]]),
        messages.Txs(H, [b"\x04" * 90]),
        messages.Bft(b"\x06" * 100),
        messages.Bye("too-many-peers"),
    ]


def p2p_message() -> Target:
    def run(data: bytes) -> str:
        message = messages.decode(data)
        if not isinstance(message, messages.Unknown):
            ensure(messages.decode(messages.encode(message)) == message, "it comes back")
        return type(message).__name__

    return Target("p2p_message", [messages.encode(each) for each in sample_messages()], run, mutate_msgpack())


# --- connections ----------------------------------------------------------------------------------

_CLIENT, _SERVER = NodeKeys(b"\x01" * 32), NodeKeys(b"\x02" * 32)
_EVENTS = (Secured, Greeted, Heard, Fault, Throttle, Closed)


def _hello(keys: NodeKeys) -> Hello:
    return Hello(1, CHAIN, keys.identity, 7, H, 3, "wattd:test", 1_700_000_000, 4040)


def _pair() -> tuple[Connection, Connection]:
    client = Connection(_CLIENT, lambda: _hello(_CLIENT), 0, initiator=True, ephemeral=b"\x11" * 32)
    server = Connection(_SERVER, lambda: _hello(_SERVER), 0, initiator=False, ephemeral=b"\x22" * 32)
    return client, server


def _wire_of(connection: Connection) -> bytes:
    return b"".join(iter(connection.wire, b""))


def _shake(client: Connection, server: Connection, *, greet: bool) -> None:
    """Carry the handshake; with ``greet`` the hellos too, otherwise the client's is withheld."""
    list(server.receive(_wire_of(client), 0))
    list(client.receive(_wire_of(server), 0))
    out = _wire_of(client)
    first = 2 + int.from_bytes(out[:2], "little")
    list(server.receive(out if greet else out[:first], 0))
    list(client.receive(_wire_of(server), 0))


class Judge:
    """Watches what a connection yields."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seen: list[str] = []

    def feed(self, data: bytes, now_ms: int) -> None:
        for event in self.connection.receive(data, now_ms):
            ensure(isinstance(event, _EVENTS), f"{event} is no event")
            ensure("Closed" not in self.seen, "nothing follows the end")
            self.seen.append(type(event).__name__ + (f" {event.code}" if isinstance(event, Fault) else ""))
            if isinstance(event, Closed):
                self.seen.append("Closed")
            if isinstance(event, Heard):
                ensure(messages.decode(messages.encode(event.message)) == event.message, "it comes back")
        held = self.connection._frames.held_bytes
        ensure(held <= limits.MAX_BLOCK_BYTES * 2, "a bounded buffer")

    def outcome(self) -> str:
        return f"{self.connection.state.value} {self.seen[-1] if self.seen else ''}"


def connection() -> Target:
    """First byte: stage, side and cut. Then plaintext frames, or raw bytes while shaking hands."""
    client, server = _pair()
    shake_1 = _wire_of(client)
    list(server.receive(shake_1, 0))
    shake_2 = _wire_of(server)
    list(client.receive(shake_2, 0))
    shake_3 = _wire_of(client)
    hello = frame(messages.encode(_hello(_CLIENT)))
    frames = [frame(messages.encode(each)) for each in sample_messages()]
    samples = [b"\x00" + shake_1 + shake_3, b"\x08" + shake_2, b"\x01" + hello, b"\x01" + hello + frames[1]]
    samples += [bytes([2 + 16 * number]) + each for number, each in enumerate(frames[:14])]
    samples.append(b"\x02" + b"".join(frames[1:10]))

    def run(data: bytes) -> str:
        if not data:
            return "empty"
        mode, size = data[0], (1, 3, 17, 1 << 20)[data[0] >> 4 & 3]
        client, server = _pair()
        rest = data[1:]
        if mode & 3 == 0:
            target = client if mode & 8 else server
            if target is client:
                _wire_of(client)
            wire = rest
        else:
            _shake(client, server, greet=mode & 3 >= 2)
            ensure(server.state is (Stage.READY if mode & 3 >= 2 else Stage.HELLO), "as far as that")
            target = server
            if mode & 4:
                for question in (messages.GetBlocks(1, 5), messages.GetBody(H), messages.GetTxs(H, [H])):
                    server.send(question)
            plain = [rest[at : at + 3_000] for at in range(0, len(rest), 3_000)]
            wire = b"".join(record(client._noise.encrypt(part)) for part in plain)
            if mode & 0xC0 == 0xC0 and wire:
                broken = bytearray(wire)
                broken[mode % len(wire)] ^= 1
                wire = bytes(broken)
        judge = Judge(target)
        step_bytes = max(size, len(wire) // 400 + 1)
        for number, at in enumerate(range(0, len(wire), step_bytes)):
            judge.feed(wire[at : at + step_bytes], number)
        target.tick(10**6)
        _wire_of(target)
        outcome = judge.outcome()
        target.end_of_file()
        ensure(target.closed, "the end of the file is the end")
        return outcome

    return Target("connection", samples, run, _mutate_frames, max_bytes=8_192)


def _mutate_frames(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Change messages inside their frames, or everything blindly."""
    chosen = rng.choice(pool)
    if rng.random() < 0.4 or not chosen or chosen[0] & 3 == 0:
        return mutate_bytes(rng, pool)
    parts, at = [], 1
    while at + 4 <= len(chosen) and len(parts) < 40:
        end = at + 4 + int.from_bytes(chosen[at : at + 4], "little")
        parts.append(chosen[at + 4 : end])
        at = end
    if not parts:
        return mutate_bytes(rng, pool)
    at = rng.randrange(len(parts))
    parts[at] = mutate_msgpack(0, 0.2)(rng, [parts[at] or b"\xc0"])
    if rng.random() < 0.3:
        parts.insert(rng.randint(0, len(parts)), messages.encode(rng.choice(sample_messages())))
    mode = chosen[0] if rng.random() < 0.7 else rng.randrange(256)
    return bytes([mode]) + b"".join(map(frame, parts))


# --- consensus messages -----------------------------------------------------------------------------


@cache
def history() -> tuple[list[State], list[Message], list[tuple[int, bytes]]]:
    """States, messages and log records of a cluster in trouble: elections, proposals, certificates."""
    cluster = Cluster(4, 11, observers=1)
    cluster.tracing = True
    states: list[State] = []
    cluster.start()
    cluster.work(5)
    for round_ in range(24):
        cluster.run(45)
        states += [node.state for node in cluster.nodes if node.up]
        if round_ % 6 == 2:
            cluster.blocked = {
                (a, b) for a in range(4) for b in range(4) if a == round_ // 6 or b == round_ // 6
            }
        if round_ % 6 == 5:
            cluster.heal()
    records = [each for node in cluster.nodes for each in node.disk.records]
    kinds: dict[type[Any], list[Message]] = {}
    for _, _, _, message in cluster.trace:
        kinds.setdefault(type(message), []).append(message)
    chosen = [each for kind in kinds.values() for each in kind[:: max(1, len(kind) // 6)]]
    records.append(wal.encode_record(RoundRecord(3, 1_000)))
    return states, chosen + accusations(), records


def accusations() -> list[Message]:
    """Evidence of each kind against validator 2; the signatures are its own."""
    config = config_of(4, 2)
    secret, electorate = config.secret, config.electorate
    ensure(secret is not None, "a validator")
    votes = [
        Signed(vote, 1, 1, block_hash, secret.sign(statements.block_vote(electorate, vote, 1, 1, block_hash)))
        for vote in SHOWN
        for block_hash in (H, H[::-1])
    ]
    elections = [
        Given(2, cand, 0, 0, H, secret.sign(statements.grant(electorate, 2, cand, 0, 0, H)))
        for cand in (0, 1)
    ]
    pairs = [votes[:2], votes[2:4], votes[4:], elections, [votes[4], elections[0]]]
    return [Accuse(0, evidence_of(2, *pair)) for pair in pairs]


def evidence() -> Target:
    def run(data: bytes) -> str:
        found = decode_evidence(data)
        ensure(encode_evidence(*found) == data, "encoding gives it again")
        try:
            check_evidence(config_of(4, 0).electorate, found[1])
        except RuleError as error:
            return error.code
        return "convicts"

    samples = [encode_evidence(each.round, each.evidence) for each in accusations()]
    return Target("evidence", samples, run, mutate_msgpack(0, 0.3))


def bft_message() -> Target:
    def run(data: bytes) -> str:
        message = codec.decode(data)
        ensure(codec.encode(message) == data, "encoding gives it again")
        return type(message).__name__

    return Target("bft_message", [codec.encode(each) for each in history()[1]], run, mutate_msgpack(0, 0.3))


def certificate() -> Target:
    def run(data: bytes) -> str:
        ensure(codec.encode_qc(codec.decode_qc(data)) == data, "encoding gives it again")
        return "parsed"

    samples = [codec.encode_qc(each.commit_qc) for each in history()[0][::7]]
    return Target("certificate", samples, run, mutate_msgpack(0, 0.3))


def vote_record() -> Target:
    """One byte for the kind, then the payload."""

    def run(data: bytes) -> str:
        kind, payload = (data[0], data[1:]) if data else (0, b"")
        found = wal.decode_record(kind, payload)
        ensure(wal.encode_record(found) == (kind, payload), "encoding gives it again")
        return type(found).__name__

    samples = [bytes([kind]) + payload for kind, payload in history()[2][::5]]
    return Target("vote_record", samples, run, mutate_msgpack(1, 0.3))


# --- the engine -------------------------------------------------------------------------------------


class Anything:
    """Signatures that always hold: mutated messages get as far as they can, certificates included."""

    def sign(self, secret: bytes, digest: bytes) -> bytes:
        return CHEAP.sign(secret, digest)

    def verify(self, items: Sequence[Any]) -> list[bool]:
        return [True] * len(items)


_CONFIGS = {
    credulous: [config_of(4, me, Anything() if credulous else CHEAP) for me in (0, 1, 2, 3, None)]
    for credulous in (False, True)
}


def _split(data: bytes) -> tuple[int, list[tuple[int, bytes]]]:
    """Two bytes for the state, then (tag, u16 length, body): a message from ``tag``, or an event."""
    start = int.from_bytes(data[:2], "little")
    parts, at = [], 2
    while at + 3 <= len(data) and len(parts) < 16:
        size = int.from_bytes(data[at + 1 : at + 3], "little")
        parts.append((data[at], data[at + 3 : at + 3 + size]))
        at += 3 + size
    return start, parts


def _join(start: int, parts: Sequence[tuple[int, bytes]]) -> bytes:
    packed = [
        bytes([tag]) + len(body).to_bytes(2, "little") + body for tag, body in parts if len(body) < 1 << 16
    ]
    return start.to_bytes(2, "little") + b"".join(packed)


def mutate_history(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Change, repeat, reorder and mix messages; choose another state, sender or event."""
    start, parts = _split(rng.choice(pool))
    if rng.random() < 0.4:
        start = rng.randrange(1 << 16)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(parts)) if parts else 0
        kind = rng.randrange(6)
        if kind == 0:
            parts.insert(at, (rng.randrange(5), codec.encode(rng.choice(history()[1]))))
        elif kind == 1:
            parts.insert(at, (rng.randrange(5, 12), rng.randbytes(2)))
        elif kind == 2 and parts:
            parts[at] = (rng.randrange(256), parts[at][1])
        elif kind == 3 and len(parts) > 1:
            parts[at], parts[-1] = parts[-1], parts[at]
        elif parts and parts[at][1]:
            tag, body = parts[at]
            parts[at] = (tag, mutate_msgpack(0, 0.1)(rng, [body]))
    return _join(start, parts)


class Shell:
    """Runs one engine and answers its effects as a good shell would."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.now = max((armed.at_ms for armed in state.timers.values()), default=10_000)
        self.log: list[str] = []
        self.answers: list[Any] = []

    def feed(self, event: Any) -> None:
        before = self.state
        kept = before.__dict__.copy()
        self.state, effects = step(before, event, self.now)
        ensure(before.__dict__ == kept, "the state before stays what it was")
        for effect in effects:
            self._note(effect)

    def _note(self, effect: Any) -> None:
        self.log.append(effect.code if isinstance(effect, Misbehaviour) else type(effect).__name__)
        if isinstance(effect, Send | Broadcast):
            codec.decode(codec.encode(effect.message))
        elif isinstance(effect, Persist):
            wal.decode_record(*wal.encode_record(effect.record))
        elif isinstance(effect, Check):
            self.answers.append(Checked(effect.proposal.block_hash, True))
        elif isinstance(effect, Build):
            made = make_proposal(effect.parent_hash, effect.height, effect.term, b"built")
            self.answers.append(Built(effect.parent_hash, effect.term, made))

    def settle(self) -> None:
        """Answer what was asked, a few times over."""
        for _ in range(4):
            answers, self.answers = self.answers, []
            for answer in answers:
                self.feed(answer)

    def act(self, tag: int, body: bytes) -> None:
        """Carry out one part of an input."""
        if tag % 12 < 5:
            self.feed(Received(None if tag % 12 == 4 else tag % 12, codec.decode(body)))
            return
        value = int.from_bytes(body[:2], "little")
        armed = sorted(self.state.timers.items())
        if tag % 12 in (5, 6) and armed:
            name, timer = armed[value % len(armed)]
            self.now = max(self.now, timer.at_ms)
            self.feed(TimerFired(name, timer.token))
        elif tag % 12 == 7:
            self.feed(PendingWork(value))
        elif tag % 12 == 8:
            self.feed(Censored())
        elif tag % 12 == 9:
            self.feed(
                BlockAvailable(value % 50, make_proposal(self.state.committed_hash, value % 50, 1, body))
            )
        elif tag % 12 == 10:
            self.now += value
        else:
            self.settle()


def engine() -> Target:
    """The step function: whatever validators send, it never raises, and a restart finds a sound log."""
    states, chosen, _ = history()
    samples = [
        _join(number * 37, [(number % 4, codec.encode(message)), (11, b""), (5, b"\0\0")])
        for number, message in enumerate(chosen)
    ]

    def run(data: bytes) -> str:
        start, parts = _split(data)
        state = states[start % len(states)].fork()
        credulous = bool(start & 0x8000)
        me = state.config.me
        state.config = _CONFIGS[credulous][4 if me is None else me]
        shell = Shell(state)
        for tag, body in parts:
            try:
                shell.act(tag, body)
            except PeerFault as fault:
                ensure(
                    tag % 12 < 5 and fault.code.startswith(("bft-", "bad-bft-", "non-canonical")), str(fault)
                )
                shell.log.append(fault.code)
            shell.settle()
        after = shell.state
        if after.halted is None:
            tip = CommittedTip(after.committed_height, after.committed_hash, after.commit_qc)
            again = restore(after.config, checkpoint(after), tip, ())
            ensure(again.cur_term >= after.cur_term, "a restart keeps the term")
        kinds = sorted(set(shell.log) - {"SetTimer", "CancelTimer", "Persist", "Fsync"})
        return " ".join(kinds)

    return Target("engine", samples, run, mutate_history, (), 32_768)


TARGETS = (p2p_message, connection, bft_message, certificate, evidence, vote_record, engine)
