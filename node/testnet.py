"""Networks of real node processes on this machine, for the demo, tests and benchmarks.

A testnet is a directory with one chain file and one data directory per node. Each node is a process
of its own with its own ports; it can be killed, restarted and asked over RPC like any other.
"""

import asyncio
import errno
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from consensus.address import encode_address
from consensus.chainfile import parse_chain_file, render_chain_file
from consensus.errors import LocalFault
from consensus.hashes import hash160
from consensus.params import (
    NO_BFT,
    AddressPrefixes,
    Allocation,
    BftParams,
    ChainParams,
    Community,
    EnergyParams,
    LedgerParams,
    Organisation,
    PowParams,
    Validator,
)
from consensus.script.templates import p2pkh
from consensus.validators import sign_entry
from node.clock import Clock
from node.config import (
    CHAIN_NAME,
    CONFIG_NAME,
    KEYS_NAME,
    ClockConfig,
    Endpoint,
    LogConfig,
    NodeConfig,
    PeerConfig,
    RpcConfig,
    render_config,
)
from node.dice import random_bytes
from node.keyfile import NodeKeys, generate_keys, write_keys
from node.limits import TESTNET_POLL_S, TESTNET_READY_TIMEOUT_S, TESTNET_STOP_TIMEOUT_S
from node.rpc.client import AsyncRpcClient, RpcUnavailable, read_cookie

HOST = "127.0.0.1"
HTTP_OK = 200
REAL_TIME = ClockConfig()
TEST_ADDRESSES = AddressPrefixes(p2pkh=111, p2sh=196, wif=239, bech32_hrp="tb")
LOG_NAME = "node.log"
LOWEST_PORT = 10_000
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
FOLLOWER = "follower"

LONGEST_ROUND_S = 366 * 86_400
"""No test runs into the end of such an epoch by chance; on a chain whose genesis lies years back the first
block ends the founders' one. Tests of elections take a few seconds instead."""

TEST_LEDGER = LedgerParams(
    max_money=21_000_000 * 100_000_000,
    max_block_weight=4_000_000,
    min_fee_per_kvb=1_000,
    min_payout=1_000,
    op_budget=20_000,
    timer_budget=20_000,
    coinbase_maturity_blocks=0,
)
TEST_BFT = BftParams(
    bits=0x207FFFFF,
    round_s=LONGEST_ROUND_S,
    max_drift_s=30,
    tenure_blocks=1_000,
    progress_timeout_ms=600,
    slot_step_ms=60,
    idle_interval_ms=1_000,
    block_interval_ms=200,
    min_batch_txs=2_000,
    validators=(),
)
TEST_POW = PowParams(
    bits=0x207FFFFF,
    max_target=0x207FFFFF,
    spacing_s=10,
    half_life_s=960,
    future_limit_s=100,
    subsidy=50 * 100_000_000,
    subsidy_halving_blocks=210_000,
    reorg_warn_depth=6,
)
"""Blocks cost two hashes as long as the chain is behind the schedule that starts at genesis."""
TEST_ENERGY = EnergyParams(
    slot_s=900,
    gate_lead_s=900,
    reading_window_s=7_200,
    day_offset_s=0,
    grid_price_per_kwh=30_000_000,
    feed_in_price_per_kwh=8_000_000,
    max_price_per_kwh=1_000_000_000,
    max_orders_per_slot=4_000,
    max_participants=4_000,
    communities=(),
)


@dataclass(frozen=True, slots=True)
class Founder:
    """Who takes part: ``role`` is "grid-operator", "service-provider" or, without a vote, "follower".

    On a proof-of-work chain nobody votes; the founders are its organisations.
    """

    name: str
    role: str


@dataclass(slots=True)
class LocalNode:
    """One node: its keys, its configuration and, while it runs, its process."""

    founder: Founder
    keys: NodeKeys
    config: NodeConfig
    process: "subprocess.Popen[bytes] | None" = None
    client: AsyncRpcClient | None = field(default=None, repr=False)
    cookie: str = field(default="", repr=False)

    @property
    def account_script(self) -> bytes:
        """Return the organisation's account: P2PKH of its payout key."""
        return p2pkh(hash160(self.keys.payout_pubkey))

    @property
    def is_running(self) -> bool:
        """Return whether the process lives."""
        return self.process is not None and self.process.poll() is None


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What a testnet's chain file says beside its founders; see docs/chain-file.md.

    With ``pow`` it is a proof-of-work chain.
    """

    name: str = "testnet"
    genesis_time_s: int = 1_700_000_000
    addresses: AddressPrefixes = TEST_ADDRESSES
    ledger: LedgerParams = TEST_LEDGER
    bft: BftParams = TEST_BFT
    energy: EnergyParams = TEST_ENERGY
    community: str = "riverside"
    allocations: tuple[Allocation, ...] = ()
    founder_tokens: int = 100_000 * 100_000_000
    pow: PowParams | None = None

    def params(self, founders: Sequence[tuple[Founder, NodeKeys]]) -> ChainParams:
        """Return the chain parameters with these founders; each gets ``founder_tokens``."""
        entries = tuple(self._entry(founder, keys) for founder, keys in founders)
        operator = next(entry for entry in entries if entry.role == "grid-operator")
        community = Community(self.community, operator.payout_script)
        own = tuple(Allocation(entry.payout_script, self.founder_tokens) for entry in entries)
        organisations = tuple(Organisation(each.name, each.role, each.payout_script) for each in entries)
        return ChainParams(
            name=self.name,
            engine="bft" if self.pow is None else "pow",
            genesis_time_s=self.genesis_time_s,
            addresses=self.addresses,
            ledger=self.ledger,
            bft=replace(self.bft, validators=entries) if self.pow is None else NO_BFT,
            energy=replace(self.energy, communities=(community,)),
            allocations=own + self.allocations,
            pow=None if self.pow is None else replace(self.pow, organisations=organisations),
        )

    def _entry(self, founder: Founder, keys: NodeKeys) -> Validator:
        return sign_entry(
            keys.vote.reveal(),
            keys.identity.reveal(),
            chain_name=self.name,
            name=founder.name,
            role=founder.role,
            payout_script=p2pkh(hash160(keys.payout_pubkey)),
        )


class Testnet:
    """Nodes on loopback under one directory. Use as ``async with``: leaving it stops every process."""

    __test__ = False

    def __init__(self, root: Path, params: ChainParams, nodes: list[LocalNode]) -> None:
        self.root = root
        self.params = params
        self.nodes = nodes

    @classmethod
    def create(
        cls,
        root: Path,
        founders: Sequence[Founder],
        plan: ChainPlan,
        *,
        clock: ClockConfig = REAL_TIME,
        random: Callable[[int], bytes] = random_bytes,
    ) -> "Testnet":
        """Write keys, chain file and configurations under ``root``; nothing is started.

        ``random`` makes the keys: a seeded source gives the same network again.
        """
        keys = [generate_keys(random) for _ in founders]
        params = plan.params(list(zip(founders, keys, strict=True)))
        parse_chain_file(render_chain_file(params))
        ports = free_ports(2 * len(founders))
        listens = [Endpoint(HOST, port) for port in ports[: len(founders)]]
        peers = [PeerConfig(*each) for each in zip(listens, (k.identity_key for k in keys), strict=True)]
        testnet = cls(root, params, [])
        for at, founder in enumerate(founders):
            others = tuple(peer for peer in peers if peer.address != listens[at])
            rpc = Endpoint(HOST, ports[len(founders) + at])
            testnet._add(founder, keys[at], listens[at], rpc, others, clock)
        return testnet

    def add_follower(self, name: str, peers: Sequence[int]) -> int:
        """Add a node that is no validator and dials the nodes ``peers``; return its index."""
        p2p, rpc = (Endpoint(HOST, port) for port in free_ports(2))
        known = [self.nodes[index] for index in peers]
        dialled = tuple(PeerConfig(node.config.listen, node.keys.identity_key) for node in known)
        keys = generate_keys(random_bytes)
        self._add(Founder(name, FOLLOWER), keys, p2p, rpc, dialled, self.nodes[0].config.clock)
        return len(self.nodes) - 1

    def _add(
        self,
        founder: Founder,
        keys: NodeKeys,
        listen: Endpoint,
        rpc: Endpoint,
        peers: tuple[PeerConfig, ...],
        clock: ClockConfig,
    ) -> None:
        """Write the data directory of one more node."""
        datadir = self.root / f"node-{len(self.nodes)}"
        datadir.mkdir(parents=True)
        (datadir / CHAIN_NAME).write_text(render_chain_file(self.params))
        write_keys(datadir / KEYS_NAME, keys)
        config = NodeConfig(
            datadir=datadir,
            chain_file=datadir / CHAIN_NAME,
            listen=listen,
            rpc=RpcConfig(rpc),
            peers=peers,
            clock=clock,
            log=LogConfig(format="json"),
        )
        (datadir / CONFIG_NAME).write_text(render_config(config))
        self.nodes.append(LocalNode(founder, keys, config))

    async def __aenter__(self) -> "Testnet":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def address_of(self, script_pubkey: bytes) -> str:
        """Return the address of a standard script on this chain."""
        address = encode_address(script_pubkey, self.params.addresses)
        if address is None:
            raise ValueError("the script has no address")
        return address

    def set_clock(self, clock: ClockConfig) -> None:
        """Give all nodes another clock; takes effect when they start."""
        self._configure(clock=clock)

    def set_cache(self, cache_bytes: int) -> None:
        """Give all nodes another cache; takes effect when they start."""
        self._configure(cache_max_bytes=cache_bytes)

    def _configure(self, **changes: Any) -> None:
        for node in self.nodes:
            node.config = replace(node.config, **changes)
            (node.config.datadir / CONFIG_NAME).write_text(render_config(node.config))

    def start(self, index: int) -> None:
        """Start the process of one node; its output goes to ``node.log`` in its directory."""
        node = self.nodes[index]
        if node.is_running:
            return
        command = [sys.executable, "-m", "node", "run", "--datadir", str(node.config.datadir)]
        with (node.config.datadir / LOG_NAME).open("ab") as output:
            node.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def start_all(self) -> None:
        """Start every node."""
        for index in range(len(self.nodes)):
            self.start(index)

    async def client(self, index: int) -> AsyncRpcClient:
        """Return an RPC client for a running node, made anew after a restart."""
        node = self.nodes[index]
        cookie = read_cookie(node.config.cookie_file)
        if node.client is None or node.cookie != cookie:
            old = node.client
            node.client, node.cookie = AsyncRpcClient(node.config.rpc.listen, cookie), cookie
            if old is not None:
                await old.close()
        return node.client

    async def call(self, index: int, method: str, *params: Any) -> Any:
        """Call a method on one node. Raises RpcUnavailable or RpcError."""
        return await (await self.client(index)).call(method, *params)

    async def wait_ready(self, indices: Iterable[int] | None = None, health: str = "/ready") -> None:
        """Return when the nodes (default: all) are ready, or /live. Raises "testnet-not-ready"."""
        wanted = list(range(len(self.nodes))) if indices is None else list(indices)
        deadline = Clock.monotonic_s() + TESTNET_READY_TIMEOUT_S
        for index in wanted:
            reason = "it does not answer"
            while True:
                node = self.nodes[index]
                if not node.is_running:
                    raise LocalFault("testnet-node-exited", f"{node.founder.name}: {tail_of_log(node)}")
                try:
                    status, reason = await (await self.client(index)).get(health)
                    if status == HTTP_OK:
                        break
                except RpcUnavailable:
                    pass
                if Clock.monotonic_s() > deadline:
                    raise LocalFault("testnet-not-ready", f"{node.founder.name}: {reason.strip()}")
                await asyncio.sleep(TESTNET_POLL_S)

    async def kill(self, index: int) -> None:
        """End a process with SIGKILL and wait until it is gone."""
        process = self.nodes[index].process
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def end(self, index: int) -> None:
        """Stop one node with SIGTERM and wait until it is gone."""
        process = self.nodes[index].process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, TESTNET_STOP_TIMEOUT_S)

    async def stop(self) -> None:
        """Stop every node with SIGTERM, with SIGKILL what does not end in time; close the clients."""
        running = [node.process for node in self.nodes if node.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = Clock.monotonic_s() + TESTNET_STOP_TIMEOUT_S
        for process in running:
            try:
                await asyncio.to_thread(process.wait, max(0.1, deadline - Clock.monotonic_s()))
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        await self.close_clients()

    async def close_clients(self) -> None:
        """Close the RPC connections and leave the processes alone."""
        for node in self.nodes:
            if node.client is not None:
                await node.client.close()
                node.client = None


def free_ports(count: int) -> list[int]:
    """Return TCP ports on loopback that nobody listens on at this moment.

    Where possible they are none that the system gives to outgoing connections, so that a node finds its
    ports free again after it was down.
    """
    choices = range(LOWEST_PORT, _lowest_ephemeral_port())
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            sockets.append(socket.socket())
            wanted = choices[int.from_bytes(random_bytes(4), "big") % len(choices)] if choices else 0
            try:
                sockets[-1].bind((HOST, wanted))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                sockets.pop().close()
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _lowest_ephemeral_port() -> int:
    """Return where the ports of outgoing connections begin, 0 where the system does not tell."""
    try:
        return int(EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def tail_of_log(node: LocalNode) -> str:
    """Return the last line that a node printed, to say why it ended."""
    path = node.config.datadir / LOG_NAME
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return plain_line(lines[-1]) if lines else "it printed nothing"


def plain_line(line: str) -> str:
    """Return the message of a line of the JSON log with the error it ends in, other lines as they are."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "message" not in record:
        return line
    trace = str(record.get("trace", "")).strip().splitlines()
    return f"{record['message']}: {trace[-1]}" if trace else str(record["message"])
