"""Targets of one node's own doors: text files, addresses, RPC bodies, and what lies on its disk."""

import asyncio
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from cext import crc32c
from consensus import address as addresses
from consensus.chainfile import parse_chain_file, render_chain_file
from consensus.errors import ConfigError, StorageError
from consensus.params import AddressPrefixes
from consensus.script import templates
from consensus.transaction import TxOut
from node.cli.ceremony import SignedEntry, parse_entry, render_entry
from node.config import (
    ClockConfig,
    Endpoint,
    LogConfig,
    MiningConfig,
    NodeConfig,
    PeerConfig,
    RpcConfig,
    RpcCredential,
    parse_config,
    render_config,
)
from node.fees import FeeEstimator
from node.mempool_store import Saved, decode_file, encode_file
from node.metrics import Metrics
from node.rpc import methods
from node.rpc.dispatch import Dispatcher
from node.rpc.registry import METHODS
from storage.segments import Kind, Segments
from storage.wal import LogState, encode_record, scan_records
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_text
from tests.fuzz.runner import Target, ensure
from tests.unit.consensus_rules.conftest import make_params
from tests.unit.node_rpc.conftest import MemoryNode, account

PREFIXES = AddressPrefixes(111, 196, 239, "tb")
CHAIN = b"\xc1" * 32


# --- text -----------------------------------------------------------------------------------------


def _text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def chain_file() -> Target:
    def run(data: bytes) -> str:
        try:
            params = parse_chain_file(_text_of(data))
        except ConfigError as error:
            ensure(bool(error.problems), "a refusal says why")
            return f"{min(len(error.problems), 9)} problems"
        ensure(parse_chain_file(render_chain_file(params)) == params, "it comes back")
        return "parsed"

    samples = [
        render_chain_file(make_params()).encode(),
        render_chain_file(make_params(validators=1)).encode(),
    ]
    return Target("chain_file", samples, run, mutate_text, (), 40_000)


def config() -> Target:
    home = Path("/nowhere")
    full = NodeConfig(
        home,
        home / "chain.toml",
        Endpoint("0.0.0.0", 4040),
        RpcConfig(Endpoint("::1", 4041), ("10.0.0.0/8",), (RpcCredential("ann", "5a17", "ab" * 32),)),
        (PeerConfig(Endpoint("example.org", 9833), bytes(range(32))),) * 2,
        ClockConfig(60, 1_700_000_000, 1_700_000_000),
        LogConfig("debug", "json", home / "log"),
        MiningConfig(True, 3, "mkBFreRN5GV7e28JwveuLWqepzmPUppXGw"),
        mempool_max_bytes=300 << 20,
        cache_max_bytes=64 << 20,
        tx_index=False,
        address_index=True,
    )

    def run(data: bytes) -> str:
        try:
            found = parse_config(_text_of(data), home)
        except ConfigError as error:
            ensure(bool(error.problems), "a refusal says why")
            return f"{min(len(error.problems), 9)} problems"
        ensure(parse_config(render_config(found), home) == found, "it comes back")
        return "parsed"

    return Target("config", [render_config(full).encode(), b""], run, mutate_text, (), 40_000)


def entry() -> Target:
    """A founder's signed entry, which comes from another organisation."""
    signed = SignedEntry("toy", make_params().bft.validators[0])

    def run(data: bytes) -> str:
        try:
            found = parse_entry(_text_of(data), "here")
        except ConfigError as error:
            ensure(bool(error.problems), "a refusal says why")
            return f"{min(len(error.problems), 9)} problems"
        ensure(parse_entry(render_entry(found), "here") == found, "it comes back")
        return "parsed"

    return Target("entry", [render_entry(signed).encode()], run, mutate_text, (), 10_000)


def address() -> Target:
    """Addresses and private keys: what reads also writes the same text."""
    scripts = [templates.p2pkh(bytes(20)), templates.p2sh(b"\xff" * 20), templates.p2wpkh(b"\x07" * 20)]
    scripts += [
        templates.p2wsh(b"\x08" * 32),
        templates.p2tr(b"\x09" * 32),
        templates.witness_program(1, b"\x4e\x73"),
    ]
    texts = [addresses.encode_address(script, PREFIXES) for script in scripts]
    texts += [addresses.encode_wif(b"\x0a" * 32, PREFIXES, compressed=each) for each in (True, False)]
    samples = [text.encode() for text in texts if text is not None]

    def run(data: bytes) -> str:
        text = _text_of(data)
        try:
            secret, compressed = addresses.decode_wif(text, PREFIXES)
        except Exception as error:
            if getattr(error, "code", "") != "bad-secret-key":
                raise
        else:
            ensure(
                addresses.encode_wif(secret, PREFIXES, compressed=compressed) == text, "the key comes back"
            )
            return "key"
        script = addresses.decode_address(text, PREFIXES)
        again = addresses.encode_address(script, PREFIXES)
        ensure(again is None or again in (text, text.lower()), f"the address comes back, not {again}")
        return templates.classify(script)[0]

    def mutate(rng: Random, pool: Sequence[bytes]) -> bytes:
        if rng.random() < 0.5:
            return mutate_bytes(rng, pool)
        text = bytearray(rng.choice(pool))
        for _ in range(rng.randint(1, 3)):
            if text:
                text[rng.randrange(len(text))] = rng.choice(b"123456789ABCabcqpzry9x8gfIOl0 \xc3")
        return bytes(text) if rng.random() < 0.9 else bytes(text).upper()

    return Target("address", samples, run, mutate, max_bytes=2_000)


# --- JSON-RPC -------------------------------------------------------------------------------------


class Rpc:
    """A dispatcher over a node in memory; the chain is the same for each input."""

    def __init__(self) -> None:
        logging.getLogger("wattd.rpc").setLevel(logging.CRITICAL)
        self.node = MemoryNode()
        wallet = self.node.wallet(1)
        self.payment = wallet.pay([TxOut(5_000_000, account(2).script)]).tx.raw.hex()
        self.node.mine([])
        self.dispatcher = Dispatcher(self.node, Metrics())
        self.loop = asyncio.new_event_loop()

    def samples(self) -> list[bytes]:
        """A call of each method with arguments of the right kinds, and batches."""
        block_hash = self.node.blocks[1].hash[::-1].hex()
        txid = self.node.blocks[0].txs[0].txid[::-1].hex()
        own = addresses.encode_address(account(1).script, self.node.params.addresses)
        likely = {
            "height": 1,
            "txid": txid,
            "blockhash": block_hash,
            "hash": block_hash,
            "address": own,
            "hexstring": self.payment,
            "community": "town",
            "account": own,
        }
        calls = []
        for number, (name, each) in enumerate(METHODS.items()):
            kinds = {"numeric": 1, "boolean": True, "array": [self.payment], "string": txid}
            named = {
                argument.name: likely.get(argument.name, kinds.get(argument.type.json_type))
                for argument in each.arguments
            }
            calls.append({"jsonrpc": "2.0", "id": number, "method": name, "params": named})
            calls.append({"id": str(number), "method": name, "params": list(named.values())})
        return [json.dumps(each).encode() for each in (*calls, calls[:6], [])]

    def run(self, data: bytes) -> str:
        node = self.node
        node.mempool.held.clear()
        reply = self.loop.run_until_complete(self.dispatcher.handle(data))
        if node.reported:
            bug = node.reported.pop()
            node.reported.clear()
            raise bug
        if reply.status == 204:
            ensure(not reply.body, "no content is no content")
            return "nothing"
        body = json.loads(reply.body)
        if isinstance(body, dict):
            error = body.get("error")
            return (
                f"{reply.status} {error['code']}"
                if error
                else f"{reply.status} {type(body['result']).__name__}"
            )
        ensure(isinstance(body, list), "a reply to a batch is a list")
        return f"{reply.status} batch of {min(len(body), 3)}"


def rpc() -> Target:
    ensure(bool(METHODS) and methods is not None, "the methods are there")
    served = Rpc()
    return Target("rpc", served.samples(), served.run, mutate_json, (), 60_000)


# --- disk -----------------------------------------------------------------------------------------


def vote_log() -> Target:
    """The bytes of a vote log: nothing raises, and what is returned was there."""
    whole = b"".join(encode_record(kind, bytes([kind]) * (kind * 11)) for kind in range(1, 9))

    def run(data: bytes) -> str:
        records, length, state = scan_records(data)
        ensure(data.startswith(b"".join(encode_record(*each) for each in records)), "a prefix of the log")
        ensure(length == sum(9 + len(payload) for _, payload in records), "its length")
        ensure((length == len(data)) == (state in (LogState.CLEAN, LogState.EMPTY)), "a clean end or not")
        return f"{state.value} {len(records)}"

    return Target("vote_log", [whole, whole[:40], b""], run, allowed=(), max_bytes=4_096)


def segment() -> Target:
    """A segment file: it opens on whole records, or is reported corrupt."""
    home = tempfile.TemporaryDirectory(prefix="wattd-fuzz-")
    directory = Path(home.name)
    path = directory / "seg-00000.dat"
    segments = Segments.open(directory, CHAIN, None)
    for number, kind in enumerate((Kind.BODY, Kind.UNDO, Kind.CERTIFICATE, Kind.BODY)):
        segments.append(kind, bytes([number]) * 32, number, bytes([number]) * 60)
        if number != 2:
            segments.sync()
    whole = list(segments.scan(None))
    segments.close()
    raw = path.read_bytes()

    def run(data: bytes) -> str:
        _ = home  # lives as long as the target
        path.write_bytes(data)
        opened = Segments.open(directory, CHAIN, None)
        try:
            found = list(opened.scan(None))
        finally:
            opened.close()
        if found and found[0].mark == whole[0].mark:
            ensure(
                all(each.data in {other.data for other in whole} for each in found), "no record is made up"
            )
        return f"{len(found)} records"

    return Target("segment", [raw, raw[:200]], run, allowed=(StorageError,), max_bytes=4_096)


def mempool_file() -> Target:
    """A mempool file whose checksum holds, and the fee estimates in it: read whole, or refused."""
    estimator = FeeEstimator(0)
    for height in range(1, 30):
        estimator.block(height, [(height - 1, 1_000 * height)])
    saved = Saved([(5, b"one"), (1 << 40, b"x" * 90)], {b"t" * 32: -7}, estimator.dump())
    sample = encode_file(saved, CHAIN)[:-4]

    def run(data: bytes) -> str:
        found = decode_file(data + crc32c(data).to_bytes(4, "little"), CHAIN)
        ensure(encode_file(found, CHAIN)[:-4] == data, "one form")
        other = FeeEstimator(29)
        other.restore(found.estimates)
        rate = other.estimate(6, (), conservative=True).rate
        ensure(rate is None or rate >= 0, "a fee rate")
        return f"{len(found.entries)} {rate is None}"

    small = encode_file(Saved([(5, b"one")], {}, FeeEstimator(0).dump()), CHAIN)[:-4]
    return Target("mempool_file", [sample, small], run, max_bytes=65_536)


TARGETS = (chain_file, config, entry, address, rpc, vote_log, segment, mempool_file)
