"""The vote log over rounds: when a validator may go on with what it finds, and when it has to follow only."""

import shutil
from dataclasses import replace

import pytest

from consensus.bft.types import LearnerRecord, RoundRecord, TermRecord, ValRecord
from consensus.bft.wal import decode_record, encode_record
from consensus.errors import ConfigError
from node.rounds import Promises, VoteKeys, place_of, reason_not_to_vote, timing_of
from storage.wal import LogState, VoteLog


def test_who_we_are_among_members(chain4):
    members = chain4.params.bft.validators
    for index, keys in enumerate(chain4.keys):
        assert place_of(members, VoteKeys.of(keys)) == index
        assert place_of(members[index + 1 :], VoteKeys.of(keys)) is None
    assert place_of(members, VoteKeys.of(chain4.stranger)) is None
    mixed = replace(chain4.keys[0], identity=chain4.keys[1].identity)
    with pytest.raises(ConfigError) as caught:
        place_of(members, VoteKeys.of(mixed))
    assert caught.value.code == "wrong-keys"
    assert "grid" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("found", "log_round", "height", "votes"),
    [
        (LogState.EMPTY, None, 20, True),  # at the base of the round: a new node, or the first block of it
        (LogState.EMPTY, None, 21, False),
        (LogState.CLEAN, 3, 20, True),
        (LogState.CLEAN, 3, 29, True),
        (LogState.TORN, 3, 29, True),
        (LogState.CORRUPT, 3, 20, False),
        (LogState.CORRUPT, None, 20, False),
        (LogState.CORRUPT, 2, 20, True),  # what is damaged was promised in another round
        (LogState.CLEAN, 2, 20, True),
        (LogState.CLEAN, 4, 20, False),
        (LogState.CORRUPT, 4, 29, False),
    ],
)
def test_who_may_have_forgotten_does_not_vote(found, log_round, height, votes):
    assert (reason_not_to_vote(found, log_round, 3, height, 20) == "") is votes


def test_the_engines_timing_is_that_of_the_chain_file(chain4):
    timing = timing_of(replace(chain4.params.bft, slot_step_ms=77, tenure_blocks=5, min_batch_txs=3))
    assert (timing.slot_step_ms, timing.tenure_blocks, timing.min_batch_txs) == (77, 5, 3)
    assert timing.progress_timeout_ms == chain4.params.bft.progress_timeout_ms


# ---- a log and a chain ----------------------------------------------------------------------------


class Logs:
    """The vote log of one node, opened as often as the test likes."""

    def __init__(self, node, timing):
        self.node, self.timing = node, timing
        self.path = node.path / "votes.wal"
        self.open = []

    def begin(self, keys=None):
        """Return (promises, engine) of a start."""
        self.close()
        made = Promises.open(self.path, self.node.chain, VoteKeys.of(keys or self.node.keys), self.timing)
        self.open.append(made)
        return made, made.begin()

    def close(self):
        for made in self.open:
            made.close()
        self.open.clear()

    def records(self):
        log, found = VoteLog.open(self.path)
        log.close()
        return [decode_record(*each) for each in found]

    def write(self, *records):
        self.close()
        self.path.unlink(missing_ok=True)
        log, _ = VoteLog.open(self.path)
        log.rewrite([encode_record(each) for each in records])
        log.close()


@pytest.fixture
def logs(make_node, short4, kit):
    """Validator 0 of four; no engine runs."""
    made = Logs(make_node(short4, 0), kit.FAST)
    yield made
    made.close()


def head(logs):
    return logs.records()[0]


def test_the_first_start_writes_a_log_also_without_a_vote(logs, short4):
    for keys in (None, short4.stranger):
        logs.path.unlink(missing_ok=True)
        promises, state = logs.begin(keys)
        assert (promises.own, state.config.me) == ((0, 0) if keys is None else (None, None))
        assert (state.learner, head(logs)) == (None, RoundRecord(0, 1))


def test_a_round_begins_with_a_log_of_its_own(logs):
    promises, state = logs.begin()
    logs.node.grow(1)
    found = logs.node.chain.round
    assert found.number == 1
    following = promises.follow(replace(state, work=7, next_token=9))
    assert head(logs) == RoundRecord(1, found.first_height)
    assert following.config.validator_set.set_hash == found.validator_set.set_hash
    assert (following.committed_height, following.cur_term) == (found.first_height - 1, found.base_term + 1)
    assert (following.work, following.next_token, following.started) == (7, 9, False)
    own = [member.vote_key for member in found.members].index(logs.node.keys.vote_key)
    assert (promises.own, following.config.me) == (own, own)
    assert logs.begin()[1].learner is None


def test_a_crash_at_the_boundary_leaves_the_log_of_the_round_before(logs):
    logs.begin()
    logs.node.grow(1)
    _, state = logs.begin()
    assert (state.learner, state.votes) == (None, True)
    assert head(logs).round == 1


def test_a_log_of_an_earlier_round_above_the_base_was_put_back(logs):
    logs.begin()
    logs.node.grow(1, above=1)
    for _ in range(2):  # that is remembered
        _, state = logs.begin()
        assert (state.config.me, "earlier round" in state.learner) == (None, True)
        assert head(logs).round == 1


def test_a_log_that_is_gone(logs, short4):
    logs.begin()
    logs.node.grow(2, above=1)
    logs.path.unlink()
    promises, state = logs.begin()
    assert (state.config.me, "missing" in state.learner) == (None, True)
    assert promises.own is not None
    assert logs.records()[-1] == LearnerRecord(state.learner)
    _, state = logs.begin()
    assert "missing" in state.learner
    logs.node.grow(1)  # until the next round
    following = promises.follow(state)
    assert (following.learner, following.config.me) == (None, promises.own)
    logs.path.unlink()
    logs.node.grow(0, above=1)
    _, state = logs.begin(short4.stranger)  # who has no vote has nothing to forget
    assert (state.learner, head(logs).round) == (None, 3)


def test_a_log_that_is_gone_at_the_base_hides_nothing_that_peers_do_not_hold(logs):
    logs.node.grow(1)
    _, state = logs.begin()
    assert (state.learner, state.fresh, head(logs).round) == (None, True, 1)


def test_a_damaged_log_counts_in_its_own_round_only(logs):
    promises, state = logs.begin()
    logs.node.grow(1)
    promises.follow(state)
    promises.append(ValRecord(1, 2, bytes(32)))
    promises.close()
    data = bytearray(logs.path.read_bytes())
    data[40] ^= 1  # behind the first record
    logs.path.write_bytes(data)
    promises, state = logs.begin()
    assert "damaged" in state.learner
    assert logs.path.read_bytes() == data  # kept as it is while the round lasts
    logs.node.grow(1, above=1)
    promises, state = logs.begin()
    assert "earlier round" in state.learner  # it lay there above the base
    assert (logs.path.with_name("votes.wal.corrupt").read_bytes(), head(logs).round) == (data, 2)


def test_a_damaged_log_is_put_aside_when_the_next_round_begins(logs):
    promises, state = logs.begin()
    promises.close()
    data = bytearray(logs.path.read_bytes())
    data[4] ^= 1
    logs.path.write_bytes(data)
    promises, state = logs.begin()
    assert "damaged" in state.learner
    logs.node.grow(1)
    following = promises.follow(state)
    assert (following.learner, following.config.me is None, head(logs).round) == (None, False, 1)
    assert logs.path.with_name("votes.wal.corrupt").read_bytes() == data


def test_a_log_of_a_later_round_waits_for_it(logs, monkeypatch):
    """The data directory was put back but for its log, in which the promises of a later round stand."""
    chain = logs.node.chain
    promises, state = logs.begin()
    logs.node.grow(1)
    later = chain.round.number + 2
    term = TermRecord(4, None, None)
    records = [RoundRecord(later, 5), term, ValRecord(4, 5, b"\x05" * 32)]
    logs.write(*records)
    promises, state = logs.begin()
    assert ("put back" in state.learner, promises.is_ahead) == (True, True)
    with pytest.raises(RuntimeError):
        promises.append(term)
    monkeypatch.setattr("storage.limits.WAL_BYTES_MAX", 1)
    promises.keep_short(state)
    monkeypatch.undo()
    logs.node.grow(1)
    state = promises.follow(state)
    assert ("put back" in state.learner, state.config.me, promises.own is None) == (True, None, False)
    assert logs.records() == records
    logs.node.grow(1)
    assert (chain.round.number, chain.round.first_height) == (later, 7)
    state = promises.follow(state)
    assert "no sense" in state.learner  # it names another first height: no log of this chain
    assert logs.records() == records
    logs.node.grow(1)
    state = promises.follow(state)
    assert (state.learner, head(logs).round) == (None, later + 1)


def test_what_was_promised_in_the_later_round_holds_there(logs, make_node, short4):
    segments = logs.node.grow(2)
    promises, state = logs.begin()
    val = ValRecord(state.cur_term, state.committed_height + 1, b"\x07" * 32)
    for record in (TermRecord(state.cur_term, 2, None), val):
        promises.append(record)
    promises.sync()
    old = Logs(make_node(short4, 0), logs.timing)
    shutil.copy(logs.path, old.path)
    promises, state = old.begin()
    for segment in segments:
        assert "put back" in state.learner
        old.node.follow(segment)
        state = promises.follow(state)
    assert (state.learner, state.val, state.voted_for) == (None, val, 2)
    assert (state.config.me, state.votes, state.resumed) == (promises.own, True, True)
    promises.append(replace(val, height=val.height + 1))
    promises.sync()
    assert old.begin()[1].val.height == val.height + 1
    old.close()


@pytest.mark.parametrize("kind", ["senseless", "contradicting"])
def test_a_log_that_makes_no_sense(logs, kind):
    logs.begin()
    logs.node.grow(1)
    promises, state = logs.begin()
    term = state.cur_term
    promises.close()
    log, _ = VoteLog.open(logs.path)
    if kind == "senseless":
        log.append(99, b"no record of ours")
    else:
        log.append(*encode_record(TermRecord(term + 1, None, None)))
        log.append(*encode_record(TermRecord(term, None, None)))
    log.close()
    promises, state = logs.begin()
    assert (state.config.me, "no sense" in state.learner) == (None, True)
    logs.node.grow(1)
    assert promises.follow(state).learner is None


def test_keys_that_only_half_fit_cost_the_vote_and_not_the_node(logs, short4, caplog):
    mixed = replace(short4.stranger, identity=short4.keys[1].identity)
    with pytest.raises(ConfigError):
        logs.begin(mixed)
    promises, state = logs.begin()
    promises._keys = VoteKeys.of(mixed)
    logs.node.grow(1)
    following = promises.follow(state)
    assert (promises.own, following.config.me, following.learner) == (None, None, None)
    assert "does not vote" in caplog.text
