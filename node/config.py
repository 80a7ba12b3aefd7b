"""The node's configuration: ``<datadir>/wattd.toml`` and the command line.

Defaults live here and not in generated files, so an upgrade cannot leave an old default behind.
Unknown and obsolete keys are refused; every problem is reported at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from consensus.address import decode_address, encode_address
from consensus.errors import ConfigError, RuleError
from consensus.params import ChainParams
from consensus.script.templates import p2pkh
from consensus.toml import parse_toml
from node.limits import (
    CACHE_MAX_BYTES,
    CACHE_MIN_BYTES,
    MAX_CLOCK_SPEED,
    MAX_CONFIG_BYTES,
    MAX_PEER_ENTRIES,
    MEMPOOL_EXPIRY_S,
    MEMPOOL_MAX_BYTES,
    MEMPOOL_MIN_BYTES,
    MEMPOOL_MIN_EXPIRY_S,
    MINING_MAX_THREADS,
    PRUNE_KEEP_MIN_MB,
)
from storage.limits import KEEP_BLOCKS_MIN

CONFIG_NAME = "wattd.toml"
CHAIN_NAME = "chain.toml"
KEYS_NAME = "keys.toml"
COOKIE_NAME = ".cookie"

DEFAULT_P2P_PORT = 9833
DEFAULT_RPC_PORT = 9832

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Host and TCP port; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """A manual peer. ``identity`` is its Ed25519 key, 32 bytes, pinned."""

    address: Endpoint
    identity: bytes


@dataclass(frozen=True, slots=True)
class ClockConfig:
    """Chain time = ``chain_origin_s + (real - real_origin_s) * speed``; see ``node.clock``."""

    speed: int = 1
    real_origin_s: int = 0
    chain_origin_s: int = 0


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``level`` of LOG_LEVELS, ``format`` of LOG_FORMATS; ``file`` None means standard error."""

    level: str = "info"
    format: str = "text"
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class MiningConfig:
    """The miner inside the daemon; ``payout_address`` "" is the payout key in ``keys.toml``."""

    enabled: bool = False
    threads: int = 1
    payout_address: str = ""


@dataclass(frozen=True, slots=True)
class RpcCredential:
    """A user of the RPC interface: ``digest`` = HMAC-SHA256(key ``salt``, password), hex as in
    Bitcoin Core's ``rpcauth``."""

    user: str
    salt: str
    digest: str


@dataclass(frozen=True, slots=True)
class RpcConfig:
    """The RPC server: where it listens, whom it knows beside the cookie, and from which networks
    (CIDR) it answers at all."""

    listen: Endpoint = Endpoint("127.0.0.1", DEFAULT_RPC_PORT)
    allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    auth: tuple[RpcCredential, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that ``node.app.run_node`` needs to start; paths are absolute."""

    datadir: Path
    chain_file: Path
    listen: Endpoint = Endpoint("127.0.0.1", DEFAULT_P2P_PORT)
    rpc: RpcConfig = RpcConfig()
    peers: tuple[PeerConfig, ...] = ()
    clock: ClockConfig = ClockConfig()
    log: LogConfig = LogConfig()
    mining: MiningConfig = MiningConfig()
    mempool_max_bytes: int = MEMPOOL_MAX_BYTES
    mempool_expiry_s: int = MEMPOOL_EXPIRY_S
    mempool_full_rbf: bool = False
    mempool_persist: bool = True
    verify_certified: bool = False
    cache_max_bytes: int = CACHE_MAX_BYTES
    tx_index: bool = True
    address_index: bool = False
    prune_keep_blocks: int = 0
    prune_keep_mb: int = 0

    @property
    def keys_file(self) -> Path:
        """The file with the node's private keys."""
        return self.datadir / KEYS_NAME

    @property
    def cookie_file(self) -> Path:
        """The file through which local clients authenticate."""
        return self.datadir / COOKIE_NAME


OBSOLETE: Mapping[str, str] = {}
"""Keys of earlier versions, by their new name."""


@dataclass
class _Table:
    """One table of the file: hands out typed values and notes what is wrong or unknown."""

    name: str
    values: dict[str, Any]
    problems: list[str]
    used: set[str] = field(default_factory=set)

    def path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def take(self, key: str) -> Any:
        self.used.add(key)
        return self.values.get(key)

    def fault(self, key: str, what: str) -> None:
        self.problems.append(f"{self.path(key)}: {what}")

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self.take(key)
        if value is None:
            return default
        if type(value) is not int or not low <= value <= high:
            self.fault(key, f"must be a whole number from {low} to {high}, not {value!r}")
            return default
        return value

    def text(self, key: str, default: str, choices: tuple[str, ...] = ()) -> str:
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value:
            self.fault(key, f"must be a non-empty string, not {value!r}")
            return default
        if choices and value not in choices:
            self.fault(key, f"must be one of {', '.join(choices)}, not {value!r}")
            return default
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key)
        if value is None:
            return default
        if type(value) is not bool:
            self.fault(key, f"must be true or false, not {value!r}")
            return default
        return value

    def table(self, key: str) -> "_Table":
        value = self.take(key)
        if value is not None and not isinstance(value, dict):
            self.fault(key, "must be a table")
            value = None
        return _Table(self.path(key), value or {}, self.problems)

    def items(self, key: str, what: str, kind: type) -> list[Any]:
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            self.fault(key, f"must be a list of {what}")
            return []
        return value

    def finish(self) -> None:
        for key in self.values:
            if key not in self.used:
                new = OBSOLETE.get(self.path(key))
                self.fault(key, f"is called {new} now" if new else "unknown key")


def parse_endpoint(text: str) -> Endpoint:
    """Parse "host:port" or "[v6]:port". Raises ValueError saying what is wrong."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit():
        raise ValueError(f"must be host:port, not {text!r}")
    if int(port) > 65535:
        raise ValueError(f"port must be at most 65535, not {port}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, as in [::1]:{port}, not {text!r}")
    return Endpoint(host, int(port))


def parse_config(text: str, datadir: Path) -> NodeConfig:
    """Parse the text of a ``wattd.toml``; relative paths are relative to ``datadir``.

    Raises ConfigError ``bad-config`` with every problem.
    """
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ConfigError("bad-config", (f"not TOML: {error}",)) from None
    problems: list[str] = []
    root = _Table("", values, problems)
    p2p, mempool, storage = root.table("p2p"), root.table("mempool"), root.table("storage")
    consensus = root.table("consensus")
    config = NodeConfig(
        datadir=datadir,
        chain_file=datadir / root.text("chain", CHAIN_NAME),
        listen=_endpoint(p2p, "listen", Endpoint("127.0.0.1", DEFAULT_P2P_PORT)),
        rpc=_rpc(root.table("rpc")),
        peers=_peers(root),
        clock=_clock(root.table("clock")),
        log=_log(root.table("log"), datadir),
        mining=_mining(root.table("mining")),
        mempool_max_bytes=mempool.integer("max_bytes", MEMPOOL_MAX_BYTES, MEMPOOL_MIN_BYTES, 1 << 40),
        mempool_expiry_s=mempool.integer("expiry_s", MEMPOOL_EXPIRY_S, MEMPOOL_MIN_EXPIRY_S, 1 << 40),
        mempool_full_rbf=mempool.boolean("full_rbf", False),
        mempool_persist=mempool.boolean("persist", True),
        verify_certified=consensus.boolean("verify_certified", False),
        cache_max_bytes=storage.integer("cache_max_bytes", CACHE_MAX_BYTES, CACHE_MIN_BYTES, 1 << 40),
        tx_index=storage.boolean("tx_index", True),
        address_index=storage.boolean("address_index", False),
        prune_keep_blocks=_prune_limit(storage, "prune_keep_blocks", KEEP_BLOCKS_MIN, "blocks"),
        prune_keep_mb=_prune_limit(storage, "prune_keep_mb", PRUNE_KEEP_MIN_MB, "MiB"),
    )
    for table in (p2p, mempool, consensus, storage, root):
        table.finish()
    if problems:
        raise ConfigError("bad-config", tuple(problems))
    return config


def load_config(datadir: Path) -> NodeConfig:
    """Read ``<datadir>/wattd.toml``; absent means defaults.

    Raises ConfigError ``no-datadir`` or ``bad-config``.
    """
    datadir = datadir.expanduser().absolute()
    if not datadir.is_dir():
        raise ConfigError("no-datadir", (f"{datadir} is not a directory; create it with `wattd init`",))
    return parse_config(read_text(datadir / CONFIG_NAME, default=""), datadir)


def read_text(path: Path, default: str | None = None) -> str:
    """Read a small UTF-8 file; ``default`` stands for one that does not exist.

    Raises ConfigError ``unreadable-file``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError("unreadable-file", (f"{path}: larger than {MAX_CONFIG_BYTES} bytes",))
        return data.decode()
    except FileNotFoundError:
        if default is not None:
            return default
        raise ConfigError("unreadable-file", (f"{path}: no such file",)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError("unreadable-file", (f"{path}: {reason}",)) from None


def _endpoint(table: _Table, key: str, default: Endpoint) -> Endpoint:
    text = table.text(key, str(default))
    try:
        return parse_endpoint(text)
    except ValueError as error:
        table.fault(key, str(error))
        return default


def _hex(table: _Table, key: str, length: int) -> bytes:
    value = table.text(key, "")
    try:
        data = bytes.fromhex(value)
    except ValueError:
        data = b""
    if len(data) != length:
        table.fault(key, f"must be {2 * length} hexadecimal digits" + ("" if value else ", and is missing"))
    return data


def _peers(root: _Table) -> tuple[PeerConfig, ...]:
    entries = root.items("peers", "tables", dict)
    if len(entries) > MAX_PEER_ENTRIES:
        root.fault("peers", f"at most {MAX_PEER_ENTRIES} entries, not {len(entries)}")
    peers = []
    for index, entry in enumerate(entries):
        table = _Table(f"peers[{index}]", entry, root.problems)
        if "address" not in entry:
            table.fault("address", "is missing")
        address = _endpoint(table, "address", Endpoint("127.0.0.1", DEFAULT_P2P_PORT))
        peers.append(PeerConfig(address, _hex(table, "identity", 32)))
        table.finish()
    return tuple(peers)


def _rpc(table: _Table) -> RpcConfig:
    listen = _endpoint(table, "listen", RpcConfig().listen)
    credentials = []
    for index, text in enumerate(table.items("auth", "strings", str)):
        user, _, rest = text.partition(":")
        salt, _, digest = rest.partition("$")
        if not user or not salt or len(digest) != 64 or not _is_hex(digest):
            table.fault(f"auth[{index}]", "must have the form user:salt$hmac-sha256-hex")
            continue
        credentials.append(RpcCredential(user, salt, digest))
    allow = table.items("allow", "strings", str)
    for index, network in enumerate(allow):
        try:
            ip_network(network)
        except ValueError as error:
            table.fault(f"allow[{index}]", f"must be a network such as 10.1.0.0/16: {error}")
    table.finish()
    return RpcConfig(listen, tuple(allow) or RpcConfig().allow, tuple(credentials))


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)


def _clock(table: _Table) -> ClockConfig:
    clock = ClockConfig(
        speed=table.integer("speed", 1, 1, MAX_CLOCK_SPEED),
        real_origin_s=table.integer("real_origin_s", 0, 0, 1 << 40),
        chain_origin_s=table.integer("chain_origin_s", 0, 0, 1 << 40),
    )
    if clock.speed != 1 and not (clock.real_origin_s and clock.chain_origin_s):
        table.fault("speed", "a time-lapse needs real_origin_s and chain_origin_s too")
    table.finish()
    return clock


def _log(table: _Table, datadir: Path) -> LogConfig:
    file = table.text("file", "")
    log = LogConfig(
        level=table.text("level", "info", LOG_LEVELS),
        format=table.text("format", "text", LOG_FORMATS),
        file=datadir / file if file else None,
    )
    table.finish()
    return log


def _mining(table: _Table) -> MiningConfig:
    mining = MiningConfig(
        enabled=table.boolean("enabled", False),
        threads=table.integer("threads", 1, 1, MINING_MAX_THREADS),
        payout_address=table.text("payout_address", ""),
    )
    table.finish()
    return mining


def mining_script(mining: MiningConfig, params: ChainParams, own_script: bytes) -> bytes:
    """Return the script that blocks found here pay to; ``own_script`` stands where no address is given.

    Raises ConfigError ``bad-config``: only the chain file says whether there is anything to mine, and
    which addresses there are.
    """
    problems = []
    script = own_script
    if mining.enabled and params.pow is None:
        problems.append(
            f"mining.enabled: nobody mines a chain of the engine {params.engine}; set it to false"
        )
    if mining.payout_address:
        try:
            script = decode_address(mining.payout_address, params.addresses)
        except RuleError as fault:
            example = encode_address(p2pkh(bytes(20)), params.addresses)
            problems.append(
                f"mining.payout_address: {mining.payout_address!r} is no address of the chain {params.name} "
                f"({fault.reason}); give one that looks like {example}, or remove it to be paid to the "
                f"payout key in {KEYS_NAME}"
            )
    if problems:
        raise ConfigError("bad-config", tuple(problems))
    return script


def _quote(text: str) -> str:
    """Return ``text`` as a TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _mempool_lines(config: NodeConfig, base: NodeConfig) -> list[str]:
    lines = []
    if config.mempool_max_bytes != base.mempool_max_bytes:
        lines.append(f"max_bytes = {config.mempool_max_bytes}")
    if config.mempool_expiry_s != base.mempool_expiry_s:
        lines.append(f"expiry_s = {config.mempool_expiry_s}")
    if config.mempool_full_rbf:
        lines.append("full_rbf = true")
    if not config.mempool_persist:
        lines.append("persist = false")
    return lines


def _storage_lines(config: NodeConfig, base: NodeConfig) -> list[str]:
    lines = []
    if config.cache_max_bytes != base.cache_max_bytes:
        lines.append(f"cache_max_bytes = {config.cache_max_bytes}")
    if not config.tx_index:
        lines.append("tx_index = false")
    if config.address_index:
        lines.append("address_index = true")
    if config.prune_keep_blocks:
        lines.append(f"prune_keep_blocks = {config.prune_keep_blocks}")
    if config.prune_keep_mb:
        lines.append(f"prune_keep_mb = {config.prune_keep_mb}")
    return lines


def _prune_limit(table: _Table, key: str, low: int, unit: str) -> int:
    """Take a limit of automatic pruning: 0 (keep everything), or at least ``low``."""
    value = table.integer(key, 0, 0, 1 << 40)
    if 0 < value < low:
        table.fault(key, f"must be 0 (keep everything) or at least {low} {unit}, not {value}")
        return 0
    return value


def _mining_lines(config: NodeConfig) -> list[str]:
    mining, base, lines = config.mining, MiningConfig(), []
    if mining.enabled:
        lines.append("enabled = true")
    if mining.threads != base.threads:
        lines.append(f"threads = {mining.threads}")
    if mining.payout_address:
        lines.append(f"payout_address = {_quote(mining.payout_address)}")
    return lines


def render_config(config: NodeConfig) -> str:
    """Return the text of a ``wattd.toml`` that holds what differs from the defaults."""
    base = NodeConfig(config.datadir, config.datadir / CHAIN_NAME)
    lines: list[str] = []
    if config.chain_file != base.chain_file:
        lines.append(f"chain = {_quote(str(config.chain_file))}")
    tables: dict[str, list[str]] = {
        "p2p": [f"listen = {_quote(str(config.listen))}"],
        "rpc": [f"listen = {_quote(str(config.rpc.listen))}"],
        "clock": [],
        "mining": _mining_lines(config),
        "mempool": [],
        "storage": [],
        "log": [],
    }
    if config.rpc.auth:
        users = ", ".join(_quote(f"{each.user}:{each.salt}${each.digest}") for each in config.rpc.auth)
        tables["rpc"].append(f"auth = [{users}]")
    if config.rpc.allow != base.rpc.allow:
        tables["rpc"].append(f"allow = [{', '.join(map(_quote, config.rpc.allow))}]")
    if config.clock != base.clock:
        clock = config.clock
        tables["clock"] = [
            f"speed = {clock.speed}",
            f"real_origin_s = {clock.real_origin_s}",
            f"chain_origin_s = {clock.chain_origin_s}",
        ]
    tables["mempool"] = _mempool_lines(config, base)
    if config.verify_certified:
        tables["consensus"] = ["verify_certified = true"]
    tables["storage"] = _storage_lines(config, base)
    if config.log != base.log:
        tables["log"] = [f"level = {_quote(config.log.level)}", f"format = {_quote(config.log.format)}"]
        if config.log.file is not None:
            tables["log"].append(f"file = {_quote(str(config.log.file))}")
    for name, body in tables.items():
        if body:
            lines += ["", f"[{name}]", *body]
    for peer in config.peers:
        lines += ["", "[[peers]]", f"address = {_quote(str(peer.address))}"]
        lines.append(f"identity = {_quote(peer.identity.hex())}")
    return "\n".join(lines).lstrip("\n") + "\n"
