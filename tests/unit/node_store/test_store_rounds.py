"""Stores of a chain whose validators change: each certificate is checked by the set of its round."""

import shutil
from dataclasses import replace

import plyvel
import pytest

from consensus import canonical, history
from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.config import Electorate, VoterSet, VoteSecret, genesis_base
from consensus.bft.quorum import quorum
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.block import BlockHeader
from consensus.errors import RuleError, StorageError
from consensus.genesis import genesis_block
from consensus.light import check_proof, decode_proof, decode_step, encode_proof, encode_step, follow
from consensus.restart import Restart, encode_restart, sign
from consensus.rounds import NOW, decode_round, encode_round, encode_set, set_key, set_record
from contracts.api import EnergyContracts
from node.proofs import founding_trust, make_proof, make_steps
from node.store.evidence import Trust
from node.store.prune import Limit, prune
from node.store.reindex import reindex
from node.store.signers import SetWalk
from node.store.snapfile import CHUNK_BYTES, U32
from node.store.snapshot import export_snapshot, import_snapshot
from storage import limits, schema

INTERVAL, TIP = 6, 26
HEIGHT, PROOF = 18, 24
STEP_S, ROUND_S = 20, 70
"""An epoch ends every three or four blocks."""


def make_chain(kit, interval):
    """Six organisations, of which an epoch elects four."""
    made = kit.node.Chain(6, {"round_s": ROUND_S, "delegates": 4})
    ledger = replace(made.params.ledger, snapshot_interval_blocks=interval)
    made.params = replace(made.params, ledger=ledger)
    made.genesis = genesis_block(made.params, EnergyContracts(made.params))
    return made


@pytest.fixture(scope="module")
def chain(kit):
    return make_chain(kit, INTERVAL)


@pytest.fixture(scope="module")
def plain(kit):
    """The same without state roots."""
    return make_chain(kit, 0)


def certify(chain, found, height, block_hash, *, kind=Kind.COMMIT):
    """Return a certificate of a quorum of a round."""
    secrets = {keys.vote_key: keys.vote.reveal() for keys in chain.keys}
    voters = VoterSet.of(found.validator_set)
    electorate = Electorate(chain.genesis.hash, voters, genesis_base(chain.genesis.hash))
    members, term = range(quorum(voters.n)), found.base_term + 1
    vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
    digest = statements.block_vote(electorate, vote, term, height, block_hash)
    sigs = tuple(VoteSecret(secrets[voters.keys[at]]).sign(digest) for at in members)
    return QC(kind, found.number, term, height, block_hash, bitmap_of(members, voters.n), sigs)


def grow(kit, chain, node, count, signer=None, *, pays=True):
    """Commit ``count`` blocks with certificates of the current round, or of the round ``signer``."""
    for _ in range(count):
        found, height = node.chain.round, node.chain.tip.height + 1
        txs = [kit.node.pay(chain.coin(height))] if pays and height < kit.node.COINS else []
        block = node.chain.build(
            node.chain.tip.block_hash,
            lambda exclude, txs=txs: txs,
            time_s=chain.params.genesis_time_s + height * STEP_S,
            term=found.base_term + 1,
            proposer=0,
            last_bitmap=bytes((len(found.members) + 7) // 8),
        ).block
        node.chain.commit(block.hash, encode_qc(certify(chain, signer or found, height, block.hash)))


def make(kit, chain, path, count, **given):
    kit.make_datadir(path, chain, -1)
    node = kit.node.Node(path, chain)
    grow(kit, chain, node, count, **given)
    node.close()
    return path


@pytest.fixture(scope="module")
def grown(tmp_path_factory, chain, kit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "SEGMENT_BYTES", 8_000)
        return make(kit, chain, tmp_path_factory.mktemp("rounds") / "node", TIP)


@pytest.fixture
def datadir(grown, tmp_path):
    return shutil.copytree(grown, tmp_path / "node")


@pytest.fixture
def empty(tmp_path, chain, kit):
    return kit.make_datadir(tmp_path / "empty", chain, -1)


class Source:
    """A node as ``node.proofs`` reads it."""

    def __init__(self, node):
        self.node, self.store = node, node.store
        self.params, self.chain_id = node.params, node.chain.chain_id
        self.certificate, self.block_hash = node.store.certificate, node.store.block_hash
        self.round_end = node.store.round_end

    def state(self):
        return self.node.chain.state

    def tip(self):
        return self.node.chain.tip

    def block(self, height):
        return self.node.chain.block(self.store.block_hash(height))

    def header(self, height):
        raw = self.store.header(height)
        return None if raw is None else BlockHeader.parse(raw)


@pytest.fixture
def opened(kit, chain):
    nodes = []

    def open_node(path, given=None, **more):
        nodes.append(kit.node.Node(path, given or chain, **more))
        return nodes[-1]

    yield open_node
    for node in nodes:
        node.close()


def faults(store_command, datadir, level):
    done = store_command("check", "--datadir", datadir, "--level", level)
    return [line for line in done.out.splitlines() if "FAULT" in line]


def put(datadir, key, value):
    with plyvel.DB(str(datadir / "index")) as index:
        index.delete(key) if value is None else index.put(key, value)


# ---- checks ----------------------------------------------------------------------------------------------


def test_the_sets_change(datadir, opened):
    node = opened(datadir)
    sets = [
        set_record(node.chain.state, node.params, node.chain.chain_id, number).keys
        for number in range(node.chain.round.number + 1)
    ]
    assert len(sets) >= 7
    assert len(set(map(frozenset, sets))) >= 3, "elections that change nothing test nothing"


def test_check_follows_the_rounds(store_command, datadir):
    done = store_command("check", "--datadir", datadir, "--level", 4)
    assert (done.status, done.err) == (0, "")
    assert f"{TIP} with a quorum, 8 rounds" in done.out


@pytest.mark.parametrize("height", [2, 5, 24])
def test_a_certificate_of_another_round_is_found(store_command, tmp_path, kit, chain, opened, height):
    datadir = make(kit, chain, tmp_path / "node", height - 1)
    node = opened(datadir)
    grow(kit, chain, node, 1, signer=replace(node.chain.round, number=node.chain.round.number + 1))
    node.close()
    assert f"height {height}: bad-cert-round" in "".join(faults(store_command, datadir, 2))


def test_former_validators_sign_nothing_any_more(store_command, tmp_path, kit, chain, opened):
    """With the number of the round, but the keys of the founders."""
    datadir = make(kit, chain, tmp_path / "node", 9)
    node = opened(datadir)
    now = node.chain.round
    founders = replace(now, members=chain.params.bft.validators)
    assert now.number > 1
    grow(kit, chain, node, 1, signer=founders)
    node.close()
    (fault,) = faults(store_command, datadir, 2)
    assert "height 10: bad-cert" in fault


def test_a_state_that_names_other_sets_is_found(store_command, datadir, opened):
    node = opened(datadir)
    state, params, chain_id = node.chain.state, node.params, node.chain.chain_id
    record, now = set_record(state, params, chain_id, 3), state.get(NOW)
    node.close()
    swapped = record._replace(keys=record.keys[::-1])
    put(datadir, schema.STATE + set_key(3), encode_set(swapped))
    assert "another validator set for round 3" in faults(store_command, datadir, 2)[0]
    put(datadir, schema.STATE + set_key(3), encode_set(record))
    assert faults(store_command, datadir, 2) == []
    found = decode_round(now)
    put(datadir, schema.STATE + NOW, encode_round(replace(found, members=found.members[::-1])))
    assert "the state is in round 7" in faults(store_command, datadir, 2)[0]


def ends_of(node):
    return [height for height in range(1, TIP + 1) if node.store.round_end(height) is not None]


def test_what_proves_the_end_of_a_round_must_be_there_and_hold(store_command, datadir, opened):
    node = opened(datadir)
    ends = ends_of(node)
    assert ends == [at for at in range(1, TIP + 1) if node.chain.next_boundary(at) == at]
    kept = node.store.round_end(ends[2])
    other = node.store.round_end(ends[3])
    node.close()
    step = decode_step(kept)
    weak = step.boundary.certificate._replace(sigs=step.boundary.certificate.sigs[::-1])
    forged = encode_step(replace(step, boundary=replace(step.boundary, certificate=weak)))
    for value in (None, other, forged):
        put(datadir, schema.round_end_key(ends[2]), value)
        assert faults(store_command, datadir, 2)
    put(datadir, schema.round_end_key(ends[2]), kept)
    assert faults(store_command, datadir, 2) == []
    put(datadir, schema.round_end_key(ends[2] + 1), other)
    assert faults(store_command, datadir, 2)


def test_pruning_leaves_what_proofs_and_checks_need(store_command, datadir, kit, opened, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_BLOCKS_MIN", 5)
    with kit.locked(datadir) as target:
        below = prune(target, Limit(keep_blocks=6), kit.Progress()).below
    assert below > 10
    for level in range(4):
        assert faults(store_command, datadir, level) == []
    node = opened(datadir)
    source, trust = Source(node), founding_trust(node.params, node.chain.chain_id)
    steps = make_steps(source, 0, node.chain.round.number)
    assert len(steps) == node.chain.round.number == 7
    assert follow(trust, steps).signers.round == 7
    proof = make_proof(source, TIP - 1, 1)
    assert check_proof(trust, decode_proof(encode_proof(proof))).height == TIP - 1
    first = ends_of(node)[0]
    node.close()
    put(datadir, schema.round_end_key(first), None)
    assert faults(store_command, datadir, 2)


def test_reindex_brings_back_what_proves_the_rounds(store_command, datadir, kit, chain, opened):
    node = opened(datadir)
    before = {height: node.store.round_end(height) for height in ends_of(node)}
    node.close()
    shutil.rmtree(datadir / "index")
    with kit.locked(datadir) as target:
        assert reindex(target, kit.Progress()).height == TIP
    again = opened(datadir)
    assert {height: again.store.round_end(height) for height in ends_of(again)} == before
    again.close()
    assert faults(store_command, datadir, 4) == []


# ---- proofs ----------------------------------------------------------------------------------------------


def test_any_transaction_is_proven_to_whoever_trusts_any_round(datadir, opened):
    node = opened(datadir)
    source, believed = Source(node), founding_trust(node.params, node.chain.chain_id)
    trusts = [believed]
    while believed.signers.round < 7:
        believed = follow(believed, make_steps(source, believed.signers.round, believed.signers.round + 1))
        trusts.append(believed)
    for height in range(1, TIP + 1):
        for trust in trusts:
            proof = make_proof(source, height, 1, known_round=trust.signers.round)
            found = check_proof(trust, decode_proof(encode_proof(proof)))
            assert (found.height, found.tx) == (height, source.block(height).txs[1])
            if proof.rounds == ():
                assert len(encode_proof(proof)) < 10 * 1024


def test_a_proof_has_no_more_steps_than_a_page(datadir, opened, monkeypatch):
    monkeypatch.setattr("node.proofs.MAX_ROUND_STEPS", 3)
    source = Source(opened(datadir))
    with pytest.raises(RuleError, match="proof-too-long"):
        make_proof(source, TIP, 1, known_round=3)
    assert len(make_proof(source, TIP, 1, known_round=4).rounds) == 3
    assert len(make_steps(source, 0, 7)) == 3


def test_a_round_without_blocks_yet_proves_nothing(datadir, opened, kit, chain):
    node = opened(datadir)
    while node.chain.round.first_height != node.chain.tip.height + 1:
        grow(kit, chain, node, 1)
    with pytest.raises(RuleError, match="proof-unavailable"):
        make_proof(Source(node), 3, 1, known_round=node.chain.round.number)
    with pytest.raises(RuleError, match="proof-unavailable"):
        make_steps(Source(node), 0, node.chain.round.number + 1)


# ---- snapshots -------------------------------------------------------------------------------------------


def exported(kit, datadir, path):
    with kit.locked(datadir) as target:
        return export_snapshot(target, path, kit.Progress())


def take(kit, empty, path, root=None):
    with kit.locked(empty) as target:
        return import_snapshot(target, path, Trust(root), kit.Progress())


def refusal(kit, empty, path, root=None):
    with pytest.raises(StorageError) as caught:
        take(kit, empty, path, root)
    assert not (empty / "index").exists()
    return caught.value.code


def test_the_chain_file_alone_stands_for_a_snapshot_of_a_later_round(
    store_command, datadir, empty, kit, chain, opened, tmp_path
):
    done = exported(kit, datadir, tmp_path / "snapshot")
    assert (done.height, done.proof_height) == (HEIGHT, PROOF)
    assert take(kit, empty, tmp_path / "snapshot") == HEIGHT
    for level in range(4):
        assert faults(store_command, empty, level) == []
    full, light = opened(datadir), opened(empty)
    for height in range(HEIGHT + 1, TIP + 1):
        block = full.chain.block(full.store.block_hash(height))
        light.chain.execute(block, light.chain.tip.block_hash)
        light.chain.commit(block.hash, full.store.certificate(height))
    assert light.chain.round == full.chain.round
    assert light.chain.round_base() == full.chain.round_base()
    assert make_steps(Source(light), 0, 7) == make_steps(Source(full), 0, 7)
    light.close()
    assert exported(kit, empty, tmp_path / "again") == done
    assert (tmp_path / "again").read_bytes() == (tmp_path / "snapshot").read_bytes()


@pytest.mark.parametrize("height", range(1, 13))
def test_a_node_starts_at_any_height_again_and_from_a_snapshot(
    store_command, tmp_path, kit, plain, opened, height
):
    datadir = make(kit, plain, tmp_path / "node", height)
    done = exported(kit, datadir, tmp_path / "snapshot")
    empty = kit.make_datadir(tmp_path / "empty", plain, -1)
    assert take(kit, empty, tmp_path / "snapshot", done.root) == height
    assert faults(store_command, empty, 3) == []
    full, light = opened(datadir, plain), opened(empty, plain)
    assert full.chain.tip.height == height
    for _ in range(6):
        assert light.chain.round == full.chain.round
        base = light.chain.round_base()
        assert base == full.chain.round_base()
        assert base.block_hash == full.store.block_hash(full.chain.round.first_height - 1)
        assert [light.chain.next_boundary(at) for at in range(13)] == [
            full.chain.next_boundary(at) for at in range(13)
        ]
        grow(kit, plain, full, 1)
        block = full.chain.block(full.chain.tip.block_hash)
        light.chain.execute(block, light.chain.tip.block_hash)
        light.chain.commit(block.hash, full.store.certificate(full.chain.tip.height))


class Trailer:
    """The end of a snapshot, taken apart; ``write`` seals it with the root that fits."""

    def __init__(self, path):
        data = path.read_bytes()
        at = data.rindex(b"STEP")
        self.path, self.rooted = path, data[:at]
        self.steps, at = [], at + 4
        while data[at]:
            (size,) = U32.unpack_from(data, at + 1)
            self.steps.append(data[at + 5 : at + 5 + size])
            at += 5 + size
        (size,) = U32.unpack_from(data, at + 5)
        self.certificates = canonical.decode(data[at + 9 : at + 9 + size])

    def write(self):
        certificates = canonical.encode(self.certificates)
        steps = b"".join(b"\x01" + U32.pack(len(step)) + step for step in self.steps) + b"\x00"
        chunks = [self.rooted[at : at + CHUNK_BYTES] for at in range(0, len(self.rooted), CHUNK_BYTES)]
        root = history.tree_root([history.leaf_hash(chunk) for chunk in chunks])
        end = b"STEP" + steps + b"CERT" + U32.pack(len(certificates)) + certificates + root
        self.path.write_bytes(self.rooted + end)


def forged_steps(chain, steps):
    """Yield (what is wrong, steps)."""
    step = decode_step(steps[2])
    boundary = step.boundary
    founders = founding_trust(chain.params, chain.genesis.hash).signers

    def changed(**given):
        return [*steps[:2], encode_step(replace(step, **given)), *steps[3:]]

    def signed(**given):
        return changed(boundary=replace(boundary, certificate=boundary.certificate._replace(**given)))

    yield "none", []
    yield "one is missing", [*steps[:2], *steps[3:]]
    yield "the last is missing", steps[:-1]
    yield "one twice", [*steps[:3], *steps[2:]]
    yield "another order", [steps[1], steps[0], *steps[2:]]
    yield "a set that nobody committed", changed(signers=replace(step.signers, keys=step.signers.keys[::-1]))
    yield "no quorum", signed(sigs=boundary.certificate.sigs[:2])
    yield "one signer thrice", signed(sigs=(boundary.certificate.sigs[0],) * 3)
    yield "a skip", changed(voters=founders)
    yield "no step", [b"\xc0", *steps[1:]]


def test_steps_that_do_not_lead_there_are_refused(datadir, empty, kit, chain, tmp_path):
    exported(kit, datadir, tmp_path / "snapshot")
    good = Trailer(tmp_path / "snapshot")
    for what, steps in forged_steps(chain, good.steps):
        bad = Trailer(tmp_path / "snapshot")
        bad.steps, bad.path = steps, tmp_path / "forged"
        bad.write()
        code = refusal(kit, empty, bad.path)
        assert code in ("snapshot-refused", "snapshot-needs-restart"), what
    good.write()
    assert take(kit, empty, good.path) == HEIGHT


def test_steps_that_skip_are_for_clients_that_ask_for_them(datadir, empty, kit, opened, tmp_path):
    exported(kit, datadir, tmp_path / "snapshot")
    node = opened(datadir)
    steps = make_steps(Source(node), 0, node.chain.round.number, skipping=True)
    node.close()
    assert any(step.voters for step in steps)
    bad = Trailer(tmp_path / "snapshot")
    bad.steps = [encode_step(step) for step in steps]
    bad.write()
    assert refusal(kit, empty, bad.path) == "snapshot-needs-restart"


def test_a_step_of_a_fork_is_refused(store_command, datadir, empty, kit, chain, opened, tmp_path):
    """Validators signed two ends of one round, with the same successors."""
    fork = opened(make(kit, chain, tmp_path / "fork", 6, pays=False))
    other = fork.store.round_end(ends_of(fork)[0])
    exported(kit, datadir, tmp_path / "snapshot")
    bad = Trailer(tmp_path / "snapshot")
    mine, theirs = decode_step(bad.steps[0]), decode_step(other)
    assert (mine.signers, mine.boundary.height) == (theirs.signers, theirs.boundary.height)
    assert mine.boundary.header != theirs.boundary.header
    bad.steps[0] = other
    bad.write()
    assert refusal(kit, empty, bad.path) == "snapshot-refused"
    put(datadir, schema.round_end_key(mine.boundary.height), other)
    assert "of another block" in faults(store_command, datadir, 2)[0]


def test_a_certificate_of_former_validators_is_refused(datadir, empty, kit, chain, opened, tmp_path):
    exported(kit, datadir, tmp_path / "snapshot")
    node = opened(datadir)
    proof_hash, now = node.store.block_hash(PROOF), node.chain.round
    own = node.store.certificate(PROOF)
    node.close()
    bad = Trailer(tmp_path / "snapshot")
    founders = replace(now, number=0, first_height=1, members=chain.params.bft.validators, base_term=0)
    real = decode_qc(own).round
    for found in (founders, replace(founders, number=real)):
        bad.certificates[2] = encode_qc(certify(chain, found, PROOF, proof_hash))
        bad.write()
        assert refusal(kit, empty, bad.path) == "snapshot-refused"


def test_a_state_in_another_round_is_refused(kit, plain, tmp_path, opened):
    """Even with a hash that the operator names: the state of a tip is not committed to by any block."""
    datadir = make(kit, plain, tmp_path / "node", 9)
    node = opened(datadir, plain)
    found = node.chain.round
    node.close()
    forged = encode_round(replace(found, members=found.members[::-1]))
    put(datadir, schema.STATE + NOW, forged)
    done = exported(kit, datadir, tmp_path / "snapshot")
    empty = kit.make_datadir(tmp_path / "empty", plain, -1)
    assert refusal(kit, empty, tmp_path / "snapshot", done.root) == "snapshot-refused"


def test_a_state_that_missed_the_end_of_a_round_is_refused(kit, plain, tmp_path, opened):
    datadir = make(kit, plain, tmp_path / "node", 9)
    node = opened(datadir, plain)
    before = node.chain.state.get(NOW)
    while node.chain.tip.height + 1 != node.chain.round.first_height:
        before = node.chain.state.get(NOW)
        grow(kit, plain, node, 1)
    node.close()
    put(datadir, schema.STATE + NOW, before)
    done = exported(kit, datadir, tmp_path / "snapshot")
    empty = kit.make_datadir(tmp_path / "empty", plain, -1)
    assert refusal(kit, empty, tmp_path / "snapshot", done.root) == "snapshot-refused"


# ---- restarts --------------------------------------------------------------------------------------------


@pytest.fixture(params=[10, 11, 12, 13])
def restarted(request, tmp_path, kit, plain):
    """A chain of some rounds and a restart behind a block, which may have ended one; (directory, file)."""
    datadir = make(kit, plain, tmp_path / "restarted", request.param)
    node = kit.node.Node(datadir, plain)
    found, tip = node.chain.round, node.chain.tip
    qc = decode_qc(node.store.certificate(tip.height))
    node.close()
    if found.first_height > tip.height:
        qc = found.base(tip.block_hash)
    restart = Restart(
        chain_id=plain.genesis.hash,
        round=found.number + 1,
        height=tip.height,
        block_hash=tip.block_hash,
        certificate=qc,
        members=found.members[:3],
        dismissed=(),
        reason="a flood",
        signatures=(b"",) * 3,
    )
    for keys in plain.keys:
        if keys.vote_key in [member.vote_key for member in restart.members]:
            restart = sign(restart, keys.vote.reveal())
    (datadir / "restarts").mkdir()
    file = datadir / "restarts" / "1.restart"
    file.write_bytes(encode_restart(restart))
    node = kit.node.Node(datadir, plain, restarts={restart.block_hash: restart})
    grow(kit, plain, node, 20 - request.param)
    assert node.chain.round.number >= found.number + 2
    node.close()
    return datadir, file


def restart_behind(chain, walk, kept, qc=None):
    """Return a signed restart at the base of the latest round, of ``kept`` of its members and all others."""
    own = [entry for entry in chain.params.bft.validators if entry.vote_key in walk.latest.keys]
    strangers = [entry for entry in chain.params.bft.validators if entry.vote_key not in walk.latest.keys]
    height = walk.latest.first_height - 1
    members = (*own[:kept], *strangers)
    qc = qc or QC(Kind.PREPARE, walk.latest.round, 3, height, bytes(32), b"", ())
    restart = Restart(
        chain_id=chain.genesis.hash,
        round=walk.latest.round + 1,
        height=qc.height,
        block_hash=qc.block_hash,
        certificate=qc,
        members=members,
        dismissed=(),
        reason="",
        signatures=(b"",) * len(members),
    )
    for keys in chain.keys:
        if keys.vote_key in [member.vote_key for member in members]:
            restart = sign(restart, keys.vote.reveal())
    return restart


def test_a_restart_must_hold(grown, tmp_path, kit, chain, opened):
    node = opened(shutil.copytree(grown, tmp_path / "node"))
    real = decode_qc(node.store.certificate(9))
    node.close()
    with kit.locked(tmp_path / "node") as target:
        walk = SetWalk(target)
        for step in Trailer(exported_to(target, kit, tmp_path / "snapshot")).steps[: real.round]:
            walk.step(decode_step(step))
        assert (len(walk.latest.keys), walk.latest.round) == (4, real.round)
        good = restart_behind(chain, walk, 2, real)
        forged = real._replace(sigs=real.sigs[::-1])
        unsigned = replace(good, signatures=(b"", *good.signatures[1:]))
        for bad, code in (
            (restart_behind(chain, walk, 1), "restart-too-few"),
            (restart_behind(chain, walk, 2, forged), "bad-cert-signature"),
            (unsigned, "restart-unsigned"),
        ):
            walk._restarts = {bad.round: bad}
            with pytest.raises(RuleError, match=code):
                walk.restart(bad.height, bad.block_hash)
        walk._restarts = {good.round: good}
        assert not walk.restart(good.height - 1, good.block_hash)
        for elsewhere in (None, bytes(32)):
            with pytest.raises(RuleError, match="restart-missing"):
                walk.restart_up_to(good.round, {good.height: elsewhere}.get)
        walk.restart_up_to(good.round, {good.height: good.block_hash}.get)
        assert (walk.latest.round, walk.restarted) == (good.round, {good.round})
        again = restart_behind(chain, walk, 2)  # at once: its certificate is the base
        walk._restarts = {again.round: again}
        assert walk.restart(again.height, again.block_hash)


def exported_to(target, kit, path):
    export_snapshot(target, path, kit.Progress())
    return path


def test_check_follows_a_restart_that_it_was_given(store_command, restarted):
    datadir, file = restarted
    for level in range(5):
        assert faults(store_command, datadir, level) == []
    shutil.move(file, datadir / "elsewhere")
    assert "bad-cert-round" in "".join(faults(store_command, datadir, 2))


def test_a_snapshot_over_a_restart_needs_it(store_command, restarted, kit, plain, tmp_path):
    datadir, file = restarted
    done = exported(kit, datadir, tmp_path / "snapshot")
    empty = kit.make_datadir(tmp_path / "empty", plain, -1)
    assert refusal(kit, empty, tmp_path / "snapshot", done.root) == "snapshot-needs-restart"
    shutil.copytree(file.parent, empty / "restarts")
    assert take(kit, empty, tmp_path / "snapshot", done.root) == 20
    assert faults(store_command, empty, 3) == []


def test_proofs_say_that_a_restart_lies_between(restarted, opened, plain):
    datadir, _ = restarted
    node = opened(datadir, plain)
    last = node.chain.round.number
    with pytest.raises(RuleError, match="restart"):
        make_steps(Source(node), 0, last)
