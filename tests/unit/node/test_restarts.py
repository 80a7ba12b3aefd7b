"""What a stopped node can vouch for: restarts made, signed and applied over real stores and vote logs."""

import json
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.codec import decode_qc, encode_qc
from consensus.bft.config import Electorate, VoterSet
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind, LockRecord, RoundRecord, TermRecord, ValRecord
from consensus.bft.wal import encode_record
from consensus.chainfile import render_chain_file
from consensus.errors import DecodeError, LocalFault, RuleError
from consensus.keys import sign_schnorr
from consensus.restart import decree, encode_restart, join
from node.cli.main import run_command
from node.keyfile import write_keys
from node.restarts import PROMISE, decode_report, load_restarts, read_restart, survivor
from node.rounds import VOTE_LOG_NAME
from storage.wal import VoteLog

TERM = 1


def certificate(chain, node, block_hash, height, kind=Kind.COMMIT, term=TERM):
    """A certificate of the first q founders."""
    found = node.chain.round
    voters = VoterSet.of(found.validator_set)
    electorate = Electorate(node.chain.chain_id, voters, found.base(chain.genesis.hash))
    vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
    said = statements.block_vote(electorate, vote, term, height, block_hash)
    sigs = tuple(sign_schnorr(keys.vote.reveal(), said) for keys in chain.keys[: voters.q])
    return QC(kind, found.number, term, height, block_hash, bitmap_of(range(voters.q), voters.n), sigs)


class Group:
    """The nodes of a chain with ``final`` blocks in common; each may hold prepared ones above."""

    def __init__(self, tmp_path, kit, chain, final=3):
        self.tmp_path, self.kit, self.chain = tmp_path, kit, chain
        self.source = kit.Node(tmp_path / "source", chain)
        self.blocks = []
        for _ in range(final):
            self.commit(self.source, self.build())
        self.final = list(self.blocks)

    def build(self, txs=()):
        parent = self.blocks[-1].hash if self.blocks else None
        block = self.source.build(txs, parent=parent)
        self.blocks.append(block)
        return block

    def commit(self, node, block):
        qc = certificate(self.chain, node, block.hash, node.chain.tip.height + 1)
        node.chain.execute(block, node.chain.tip.block_hash)
        node.chain.commit(block.hash, encode_qc(qc))

    def qc(self, at, kind, term=TERM):
        return certificate(self.chain, self.source, self.blocks[at - 1].hash, at, kind, term)

    def survivor(self, me, *, final=None, bodies=(), lock=None, log=True):
        """Write the data directory of validator ``me``: bodies and a lock above its final blocks."""
        path = self.tmp_path / f"node-{me}"
        node = self.kit.Node(path, self.chain, me)
        for block in self.final[:final]:
            self.commit(node, block)
        for at in bodies:
            node.chain.save_body(self.blocks[at - 1])
        node.close()
        if not log:
            return
        votes, _ = VoteLog.open(path / VOTE_LOG_NAME)
        records = [RoundRecord(0, 1), TermRecord(9, None, lock)]
        if lock is not None:
            records += [LockRecord(lock), ValRecord(lock.term, lock.height, lock.block_hash)]
        votes.rewrite(encode_record(record) for record in records)
        votes.close()

    @contextmanager
    def opened(self, me):
        path = self.tmp_path / f"node-{me}"
        node = self.kit.Node(path, self.chain, me, restarts=load_restarts(path, self.chain.genesis.hash))
        try:
            with survivor(path, node.chain, node.keys) as found:
                yield found
        finally:
            node.close()

    def report(self, me):
        with self.opened(me) as found:
            return decode_report(found.report().encode())

    def make(self, me, others, **given):
        options = {"names": (), "keep": (), "reason": "fire"} | given
        reports = [self.report(other) for other in others]
        with self.opened(me) as found:
            return found.make(reports, **options)

    def sign(self, me, restart, **given):
        options = {"forgot": False, "give_up": False, "replace": False} | given
        with self.opened(me) as found:
            return found.sign(restart, **options)

    def apply(self, me, restart):
        with self.opened(me) as found:
            return found.apply(restart)

    def decided(self, me, others, **given):
        made = self.make(me, others, **given)
        return join([self.sign(each, made) for each in (me, *others)])


@pytest.fixture(scope="module")
def chain7(chain4):
    return type(chain4)(7)


@pytest.fixture
def group(tmp_path, kit, chain7):
    found = Group(tmp_path, kit, chain7)
    yield found
    found.source.close()


def code_of(call, *arguments, **given):
    with pytest.raises((LocalFault, RuleError, DecodeError)) as caught:
        call(*arguments, **given)
    return caught.value.code


def names(restart):
    return [member.name for member in restart.members]


# ---- the usual case ----------------------------------------------------------------------------------


def test_survivors_at_one_height_go_on_from_it(group):
    for me in (1, 2, 5):
        group.survivor(me)
    made = group.make(2, (5, 1))
    assert (made.round, made.height, made.block_hash) == (1, 3, group.blocks[2].hash)
    assert made.certificate.kind is Kind.COMMIT
    assert names(made) == ["provider-1", "provider-2", "provider-5"]
    assert len(made.dismissed) == 4
    whole = join([group.sign(me, made) for me in (1, 2, 5)])
    for me in (1, 2, 5):
        assert group.apply(me, whole) == 3
        with group.opened(me) as found:
            assert found.chain.round.number == 1
            assert [member.name for member in found.members] == names(made)
            assert found.forgot == ""
            assert found.highest().rank == (1, 3)


def test_who_is_behind_applies_and_fetches_the_rest_later(group):
    for me in (1, 2):
        group.survivor(me)
    group.survivor(5, final=1)
    whole = group.decided(1, (2, 5))
    assert group.apply(5, whole) == 1
    with group.opened(5) as found:
        assert found.chain.round.number == 0
        assert list(found.chain.restarts) == [whole.block_hash]


def test_a_chain_without_a_block_can_be_restarted(tmp_path, kit, chain7):
    empty = Group(tmp_path, kit, chain7, final=0)
    for me in (0, 1, 2):
        empty.survivor(me)
    whole = empty.decided(0, (1, 2))
    assert (whole.height, whole.block_hash) == (0, chain7.genesis.hash)
    assert empty.apply(0, whole) == 0
    with empty.opened(0) as found:
        assert (found.chain.round.number, found.chain.round.first_height) == (1, 1)
    empty.source.close()


# ---- blocks that were prepared -----------------------------------------------------------------------


def test_a_prepared_block_becomes_final(group, kit, chain7):
    group.build([kit.pay(chain7.coin(0))])
    group.build()
    group.survivor(1, bodies=(4,), lock=group.qc(4, Kind.PREPARE))
    group.survivor(2, bodies=(4, 5), lock=group.qc(5, Kind.PREPARE))
    group.survivor(5)
    report = group.report(2)
    assert (report.height, report.certificate.height, report.has_block) == (3, 5, True)
    assert code_of(group.make, 1, (2, 5)) == "restart-not-highest"
    assert code_of(group.make, 5, (1, 2)) == "restart-not-highest"
    whole = group.decided(2, (1, 5))
    assert (whole.height, whole.certificate.kind) == (5, Kind.PREPARE)
    assert [group.apply(me, whole) for me in (1, 2, 5)] == [3, 5, 3]
    with group.opened(2) as found:
        assert found.chain.round.number == 1
        stored = [decode_qc(found.chain.store.certificate(at)) for at in (4, 5)]
        assert {(qc.kind, qc.height, qc.sigs) for qc in stored} == {(Kind.COMMIT, 5, ())}
        assert found.chain.coins.get(chain7.coin(0)) is None


def test_tools_and_commands_work_over_a_decree(group, kit, chain7, capsys, tmp_path):
    group.build([kit.pay(chain7.coin(0))])
    for me in (1, 2, 5):
        lock = group.qc(4, Kind.PREPARE) if me == 2 else None
        group.survivor(me, bodies=() if me == 5 else (4,), lock=lock)
        datadir = tmp_path / f"node-{me}"
        (datadir / "chain.toml").write_text(render_chain_file(chain7.params))
        (datadir / "wattd.toml").write_text('chain = "chain.toml"\n')
        write_keys(datadir / "keys.toml", chain7.keys[me])

    def wattd(*arguments, me=None, status=0):
        options = [] if me is None else ["--datadir", str(tmp_path / f"node-{me}")]
        assert run_command([*map(str, arguments), *options]) == status
        told = capsys.readouterr()
        return told.out + told.err

    reports = {me: tmp_path / f"{me}.report" for me in (1, 2, 5)}
    for me, path in reports.items():
        assert f"provider-{me}" in wattd("restart", "report", "--out", path, me=me)
    made = tmp_path / "chain.restart"
    wanted = ["--reason", "fire", "--out", made]
    refused = wattd("restart", "make", reports[2], reports[5], *wanted, me=1, status=65)
    assert "restart-not-highest" in refused
    assert "make the restart on the node of provider-2" in refused
    wattd("restart", "make", reports[1], reports[5], *wanted, me=2)
    assert "restart-unsigned" in wattd("restart", "show", made, me=5, status=65)
    for me in (1, 5, 2):
        wattd("restart", "sign", made, me=me)
    assert json.loads(wattd("restart", "show", made, me=5))["certificate"] == "prepare"
    assert "blocks 4 to 4 from the peers" in wattd("restart", "apply", made, me=5)
    for me in (1, 2):
        assert "peers" not in wattd("restart", "apply", made, me=me)
    assert json.loads(wattd("restart", "list", me=2))["complete"]
    with group.opened(2) as found:
        assert found.chain.tip.height == 4
    wattd("store", "check", "--level", 4, me=2)
    wattd("store", "reindex", me=2)
    wattd("store", "check", "--level", 2, me=2)
    [path] = (tmp_path / "node-2" / "restarts").glob("*.restart")
    path.unlink()
    assert "height 4" in wattd("store", "check", "--level", 2, me=2, status=74)


async def test_a_member_that_is_behind_takes_the_decree_from_a_peer_and_votes(group, kit):
    group.build()
    group.build()
    group.survivor(1)
    group.survivor(2, bodies=(4, 5), lock=group.qc(5, Kind.PREPARE))
    group.survivor(5, final=1)
    whole = group.decided(2, (1, 5))
    assert group.apply(1, whole) == 3
    path = group.tmp_path / "node-1"
    given = load_restarts(path, group.chain.genesis.hash)
    node = kit.Node(path, group.chain, 1, restarts=given)
    try:
        driver = node.open_driver()
        driver.start()
        assert driver.status()["learner"].startswith(PROMISE)
        by_decree = decree(whole)
        blocks = group.blocks[3:]
        for forged in (
            by_decree._replace(term=2),
            by_decree._replace(block_hash=bytes(32)),
            by_decree._replace(height=4),
        ):
            taken = False
            with suppress(RuleError):
                taken = driver.take_sync(4, blocks, encode_qc(forged))
            assert not taken
        assert driver.take_sync(4, blocks, encode_qc(by_decree))
        assert (node.chain.tip.height, node.chain.round.number) == (5, 1)
        now = driver.status()
        assert (now["round"], now["learner"], driver.me) == (1, None, names(whole).index("provider-1"))
        assert node.ear.errors == []
    finally:
        node.close()


async def test_who_was_not_given_the_restart_stops_before_it_and_says_so(group, kit):
    for me in (1, 2, 5):
        group.survivor(me)
    whole = group.decided(1, (2, 5))
    node = kit.Node(group.tmp_path / "node-2", group.chain, 2)
    try:
        driver = node.open_driver()
        driver.start()
        block = group.build()
        later = whole.certificate._replace(round=1, height=4, block_hash=block.hash)
        by_decree = later._replace(round=0, bitmap=b"", sigs=())
        for shown in (later, later, by_decree):
            with pytest.raises(RuleError, match="sync-later-round"):
                driver.take_sync(4, [block], encode_qc(shown))
        assert [name for name, _ in node.ear.alarms].count("unknown-round") == 1
        assert "restart file" in driver.status()["waiting"]
        assert node.chain.tip.height == 3
    finally:
        node.close()


def test_the_highest_term_wins_over_the_highest_block(group):
    group.build()
    group.build()
    group.survivor(1, bodies=(4, 5), lock=group.qc(5, Kind.PREPARE, term=2))
    group.survivor(2, bodies=(4,), lock=group.qc(4, Kind.PREPARE, term=3))
    group.survivor(5)
    assert code_of(group.make, 1, (2, 5)) == "restart-not-highest"
    assert group.make(2, (1, 5)).height == 4


def test_nobody_signs_below_its_own_certificate(group):
    group.build()
    group.survivor(1)
    group.survivor(2, bodies=(4,), lock=group.qc(4, Kind.PREPARE))
    group.survivor(5)
    made = group.make(1, (5,), names=("provider-2",))
    assert names(made) == ["provider-1", "provider-2", "provider-5"]
    assert code_of(group.sign, 2, made) == "restart-below-lock"
    assert group.sign(2, made, give_up=True).missing


def test_a_certified_block_that_nobody_has_must_be_given_up_expressly(group):
    group.build()
    group.survivor(1, lock=group.qc(4, Kind.PREPARE))
    group.survivor(2)
    group.survivor(5)
    assert not group.report(1).has_block
    assert code_of(group.make, 1, (2, 5)) == "restart-block-missing"
    assert code_of(group.make, 2, (1, 5)) == "restart-not-highest"
    for me in (1, 2):
        others = [other for other in (1, 2, 5) if other != me]
        assert group.make(me, others, give_up=True).height == 3


# ---- what is signed and what not ---------------------------------------------------------------------


def test_a_signature_ends_the_votes_in_the_old_round(group):
    for me in (1, 2, 5):
        group.survivor(me)
    made = group.make(1, (2, 5))
    group.sign(1, made)
    with group.opened(1) as found:
        learner = found._engine.learner
        assert learner.startswith(PROMISE)
        assert found._engine.config.me is None
        assert found.forgot == ""
    assert not group.sign(1, made).signatures[1]  # the same again, on a file without the others


def test_a_second_restart_of_the_round_is_signed_only_on_request(group):
    for me in (1, 2, 5):
        group.survivor(me)
    first, second = group.make(1, (2, 5)), group.make(1, (2, 5), keep=("grid",))
    assert len(second.dismissed) == len(first.dismissed) - 1
    group.sign(1, first)
    assert code_of(group.sign, 1, second) == "restart-signed-another"
    group.sign(1, second, replace=True)
    assert code_of(group.sign, 1, first) == "restart-signed-another"


def test_who_forgot_its_votes_says_so(group):
    group.survivor(1)
    group.survivor(2)
    group.survivor(5, log=False)
    assert "vote log" in group.report(5).forgot
    made = group.make(1, (2, 5))
    assert code_of(group.sign, 5, made) == "restart-forgot"
    assert group.sign(5, made, forgot=True).signatures[2]
    with group.opened(5) as found:
        assert found._engine.config.me is None


def test_strangers_and_reports_of_elsewhere_are_refused(group):
    for me in (1, 2, 5):
        group.survivor(me)
    reports = [group.report(2), group.report(5)]
    options = {"names": (), "keep": (), "reason": "fire"}
    with group.opened(1) as found:
        foreign = replace(reports[0], chain_id=bytes(32))
        assert code_of(found.make, [foreign], **options) == "restart-wrong-chain"
        later = replace(reports[0], round=1)
        assert code_of(found.make, [later], **options) == "restart-wrong-round"
        assert code_of(found.make, reports, **options | {"names": ("nobody",)}) == "restart-unknown-member"
        assert code_of(found.make, reports, **options | {"keep": ("nobody",)}) == "restart-unknown-member"
        assert code_of(found.make, reports[:1], **options) == "restart-too-few"
        assert code_of(found.make, reports, **options | {"reason": "a\nb"}) == "bad-restart-file"
        made = found.make(reports, **options)
    group.survivor(6)
    assert code_of(group.sign, 6, made) == "restart-not-a-member"
    assert code_of(decode_report, b"\x00") == "bad-restart-report"


# ---- applying ----------------------------------------------------------------------------------------


def test_what_contradicts_the_own_chain_is_not_applied(group):
    for me in (1, 2, 5):
        group.survivor(me, final=2)
    whole = group.decided(1, (2, 5))
    assert whole.height == 2
    group.survivor(6)
    assert code_of(group.apply, 6, whole) == "restart-below-tip"
    partial = replace(whole, signatures=(b"", *whole.signatures[1:]))
    assert code_of(group.apply, 1, partial) == "restart-unsigned"
    assert code_of(group.apply, 1, replace(whole, reason="x")) == "restart-bad-signature"
    assert load_restarts(group.tmp_path / "node-1", group.chain.genesis.hash) == {}


def test_one_restart_per_round(group):
    for me in (1, 2, 5):
        group.survivor(me)
    first = group.decided(1, (2, 5))
    second = group.make(1, (2, 5), keep=("grid",))
    second = join([group.sign(me, second, replace=True) for me in (1, 2, 5)])
    group.apply(1, first)
    group.apply(1, first)
    assert code_of(group.apply, 1, second) == "restart-conflict"


def test_files_in_the_folder_are_checked_at_every_start(group):
    for me in (1, 2, 5):
        group.survivor(me)
    whole = group.decided(1, (2, 5))
    group.apply(1, whole)
    folder = group.tmp_path / "node-1"
    [path] = (folder / "restarts").glob("*.restart")
    assert read_restart(path) == whole
    assert code_of(load_restarts, folder, bytes(32)) == "restart-file-damaged"
    path.write_bytes(encode_restart(replace(whole, signatures=(b"",) * 3)))
    assert code_of(load_restarts, folder, group.chain.genesis.hash) == "restart-file-damaged"


def test_light_clients_get_a_new_beginning(group):
    for me in (1, 2, 5):
        group.survivor(me)
    whole = group.decided(1, (2, 5))
    with group.opened(1) as found:
        assert code_of(found.trust, whole) == "restart-not-applied"
    group.apply(1, whole)
    with group.opened(1) as found:
        trust = found.trust(whole)
        assert trust.signers.set_hash == found.chain.round.validator_set.set_hash
        assert (trust.height, trust.block_hash) == (3, whole.block_hash)
