"""``wattd.toml``: defaults, every problem at once, and files that say the same after a round trip."""

import pickle
import stat
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.address import encode_address
from consensus.errors import ConfigError
from consensus.params import PowParams
from consensus.script.templates import p2pkh, p2wpkh
from node.config import (
    ClockConfig,
    Endpoint,
    LogConfig,
    MiningConfig,
    NodeConfig,
    PeerConfig,
    RpcConfig,
    RpcCredential,
    load_config,
    mining_script,
    parse_config,
    parse_endpoint,
    read_text,
    render_config,
)
from node.keyfile import KeyFileError, Secret, generate_keys, read_keys, write_keys
from node.testnet import ChainPlan, Founder

HOME = Path("/srv/wattd")

BAD = """
chian = "chain.toml"
[p2p]
listen = "nowhere"
[[peers]]
address = "127.0.0.1:99999"
identity = "ab"
nick = "x"
[[peers]]
[rpc]
listen = 7
auth = ["alice", 5]
allow = ["10.0.0.0/40"]
[clock]
speed = 900
[mempool]
max_bytes = 10
persist = 1
[consensus]
verify_certified = "yes"
[storage]
cache_max_bytes = true
tx_index = 1
prune_keep_blocks = 287
prune_keep_mb = 255
address_index = "yes"
[log]
level = "loud"
format = "xml"
"""


def test_defaults():
    config = parse_config("", HOME)
    assert config == NodeConfig(HOME, HOME / "chain.toml")
    assert config.rpc.listen.host == "127.0.0.1"
    assert config.cookie_file == HOME / ".cookie"
    assert config.keys_file == HOME / "keys.toml"


def test_everything():
    text = f"""
chain = "/etc/chain.toml"
[p2p]
listen = "[::]:7000"
[[peers]]
address = "node.example:7001"
identity = "{"cd" * 32}"
[rpc]
listen = "0.0.0.0:7100"
allow = ["192.168.0.0/16"]
auth = ["alice:salt${"0" * 64}"]
[clock]
speed = 900
real_origin_s = 1
chain_origin_s = 2
[mempool]
max_bytes = 2000000
expiry_s = 3600
full_rbf = true
persist = false
[mining]
enabled = true
threads = 3
payout_address = "bc1q"
[consensus]
verify_certified = true
[storage]
cache_max_bytes = 3000000
tx_index = false
address_index = true
prune_keep_blocks = 288
prune_keep_mb = 256
[log]
level = "debug"
format = "json"
file = "log.txt"
"""
    config = parse_config(text, HOME)
    assert config == NodeConfig(
        datadir=HOME,
        chain_file=Path("/etc/chain.toml"),
        listen=Endpoint("::", 7000),
        rpc=RpcConfig(
            Endpoint("0.0.0.0", 7100), ("192.168.0.0/16",), (RpcCredential("alice", "salt", "0" * 64),)
        ),
        peers=(PeerConfig(Endpoint("node.example", 7001), bytes.fromhex("cd" * 32)),),
        clock=ClockConfig(900, 1, 2),
        log=LogConfig("debug", "json", HOME / "log.txt"),
        mining=MiningConfig(True, 3, "bc1q"),
        mempool_max_bytes=2_000_000,
        mempool_expiry_s=3_600,
        mempool_full_rbf=True,
        mempool_persist=False,
        verify_certified=True,
        cache_max_bytes=3_000_000,
        tx_index=False,
        address_index=True,
        prune_keep_blocks=288,
        prune_keep_mb=256,
    )
    assert parse_config(render_config(config), HOME) == config


def test_all_problems_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config(BAD, HOME)
    assert caught.value.code == "bad-config"
    fields = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(fields) == sorted(
        [
            "chian", "p2p.listen", "peers[0].address", "peers[0].identity", "peers[0].nick",
            "peers[1].address", "peers[1].identity", "rpc.listen", "rpc.auth", "rpc.allow[0]",
            "clock.speed", "mempool.max_bytes", "mempool.persist", "storage.cache_max_bytes",
            "consensus.verify_certified",
            "storage.tx_index", "storage.address_index", "storage.prune_keep_blocks",
            "storage.prune_keep_mb", "log.level", "log.format",
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("x = [", "not TOML"),
        ("peers = 5", "peers"),
        ("p2p = 5", "p2p"),
        ("[p2p.x]", "p2p.x"),
        ("[mining]\nenabled = 1", "mining.enabled"),
        (
            "[storage]\nprune_keep_blocks = 1",
            "storage.prune_keep_blocks: must be 0 (keep everything) or at least",
        ),
        ("[storage]\nprune_keep_mb = -1", "storage.prune_keep_mb: must be a whole number from 0"),
        ("[mining]\nthreads = 0", "mining.threads"),
        ("[mining]\nthreads = 65", "mining.threads"),
        ("[mining]\naddress = 'x'", "mining.address"),
        ('[rpc]\nauth = ["a:b$c"]', "rpc.auth[0]"),
        ("[[peers]]\n" * 300, "peers"),
        ('chain = ""', "chain"),
    ],
)
def test_single_problems(text, field):
    with pytest.raises(ConfigError) as caught:
        parse_config(text, HOME)
    assert caught.value.problems[0].startswith(field)


@given(
    st.builds(
        NodeConfig,
        datadir=st.just(HOME),
        chain_file=st.sampled_from([HOME / "chain.toml", Path('/a "b"\\c.toml')]),
        listen=st.builds(Endpoint, st.sampled_from(["127.0.0.1", "::1", "host"]), st.integers(0, 65535)),
        peers=st.lists(
            st.builds(PeerConfig, st.just(Endpoint("h", 1)), st.binary(min_size=32, max_size=32)), max_size=3
        ).map(tuple),
        clock=st.builds(ClockConfig, st.integers(1, 86400), st.integers(1, 1 << 40), st.integers(1, 1 << 40)),
        mining=st.builds(MiningConfig, st.booleans(), st.integers(1, 64), st.sampled_from(["", 'a"b', "1x"])),
        mempool_max_bytes=st.integers(1 << 20, 1 << 40),
        mempool_expiry_s=st.integers(60, 1 << 40),
        mempool_full_rbf=st.booleans(),
        mempool_persist=st.booleans(),
        verify_certified=st.booleans(),
        cache_max_bytes=st.integers(1 << 20, 1 << 40),
        tx_index=st.booleans(),
        address_index=st.booleans(),
        prune_keep_blocks=st.just(0) | st.integers(288, 1 << 40),
        prune_keep_mb=st.just(0) | st.integers(256, 1 << 40),
    )
)
def test_rendered_files_read_back(config):
    assert parse_config(render_config(config), HOME) == config


@pytest.mark.parametrize("text", ["", ":1", "host", "host:", "host:x", "::1:5", "h:-1", "h:65536", "h:１"])
def test_bad_endpoints(text):
    with pytest.raises(ValueError, match=r"must|needs"):
        parse_endpoint(text)


def test_files(tmp_path):
    assert load_config(tmp_path) == NodeConfig(tmp_path, tmp_path / "chain.toml")
    with pytest.raises(ConfigError, match="no-datadir"):
        load_config(tmp_path / "missing")
    (tmp_path / "wattd.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path)
    (tmp_path / "big").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="larger"):
        read_text(tmp_path / "big")
    with pytest.raises(ConfigError, match="unreadable-file"):
        read_text(tmp_path)


# ---- keys ------------------------------------------------------------------------------------------


def counting():
    calls = iter(range(1, 256))
    return lambda count: bytes([next(calls)]) * count


def test_keys_round_trip(tmp_path):
    keys = generate_keys(counting())
    write_keys(tmp_path / "keys.toml", keys)
    assert stat.S_IMODE((tmp_path / "keys.toml").stat().st_mode) == 0o600
    back = read_keys(tmp_path / "keys.toml")
    assert (back.vote_key, back.identity_key, back.payout_pubkey) == (
        keys.vote_key,
        keys.identity_key,
        keys.payout_pubkey,
    )
    with pytest.raises(KeyFileError) as caught:
        write_keys(tmp_path / "keys.toml", keys)
    assert caught.value.code == "key-file-exists"


def test_unusable_secrets_are_not_generated():
    values = iter([bytes(32), b"\xff" * 32, b"\x01" * 32, b"\x02" * 32, b"\x03" * 32])
    assert generate_keys(lambda _: next(values)).vote.reveal() == b"\x01" * 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_exposed_key_files_are_refused(tmp_path, mode):
    path = tmp_path / "keys.toml"
    write_keys(path, generate_keys(counting()))
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert (caught.value.code, caught.value.exit_status) == ("key-file-exposed", 78)
    assert "chmod 600" in str(caught.value)


def test_bad_key_files_never_show_a_secret(tmp_path):
    path = tmp_path / "keys.toml"
    path.touch(0o600)
    path.write_text(f'vote_secret = "{"ab" * 31}"\nidentity_seed = "{"zz" * 32}"\nextra = "{"cd" * 32}"\n')
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert len(caught.value.problems) == 4
    assert not any(text in str(caught.value) for text in ("abab", "cdcd", "zz"))
    path.write_text(f'vote_secret = "{"ab" * 32}')
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert "abab" not in str(caught.value)
    with pytest.raises(KeyFileError) as caught:
        read_keys(tmp_path / "none")
    assert caught.value.code == "key-file-missing"


def test_secrets_hide():
    secret = Secret(b"\x5a" * 32)
    for text in (repr(secret), str(secret), f"{secret}", repr(generate_keys(counting()))):
        assert "5a" not in text
        assert "0101" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(ValueError):
        Secret(b"short")


# ---- mining ------------------------------------------------------------------------------------

BFT = ChainPlan(name="town").params([(Founder("grid", "grid-operator"), generate_keys(Random(1).randbytes))])
POW = replace(BFT, engine="pow", pow=PowParams(0x207FFFFF, 0x207FFFFF, 10, 960, 100, 50, 1000, 6))


def test_a_miner_is_paid_to_the_address_given_or_to_its_own_key():
    own = p2wpkh(bytes(20))
    script = p2pkh(bytes(range(20)))
    address = encode_address(script, POW.addresses)
    assert mining_script(MiningConfig(enabled=True, payout_address=address), POW, own) == script
    assert mining_script(MiningConfig(enabled=True), POW, own) == own
    assert mining_script(MiningConfig(), BFT, own) == own


def test_what_cannot_be_mined_is_named_with_what_to_do_about_it():
    elsewhere = encode_address(p2wpkh(bytes(20)), replace(POW.addresses, bech32_hrp="xyz"))
    for address in (elsewhere, "wattmoney"):
        with pytest.raises(ConfigError) as caught:
            mining_script(MiningConfig(payout_address=address), POW, b"")
        [problem] = caught.value.problems
        assert problem.startswith(f"mining.payout_address: {address!r} is no address of the chain town")
        assert encode_address(p2pkh(bytes(20)), POW.addresses) in problem
    with pytest.raises(ConfigError) as caught:
        mining_script(MiningConfig(enabled=True, payout_address="x"), BFT, b"")
    first, second = caught.value.problems
    assert first.startswith("mining.enabled: nobody mines a chain of the engine bft; set it to false")
    assert second.startswith("mining.payout_address")
