"""The abstract model: the whole rules never fork within the bounds, and each rule is needed."""

import secrets

import pytest

from consensus.bft.quorum import faults, quorum
from tests.simulation.model import GENESIS, RULES, Model


@pytest.mark.parametrize(
    ("bounds", "states"),
    [
        ({"terms": 1, "heights": 2}, 1_349),
        ({"terms": 2, "heights": 1}, 9_382),
        ({"n": 5, "terms": 2, "heights": 1}, 28_454),
        ({"terms": 1, "heights": 2, "ending": True}, 1_352),
        ({"terms": 2, "heights": 1, "ending": True}, 16_424),
    ],
)
def test_every_state_within_the_bounds_is_sound(bounds, states):
    """The number of states is part of the test: a model that reaches fewer has lost behaviour."""
    judged = Model(**bounds).explore()
    assert judged.wrong is None
    assert judged.states == states


@pytest.mark.parametrize(
    "bounds",
    [
        {"terms": 4, "heights": 3},
        {"terms": 4, "heights": 2, "n": 5},
        {"terms": 3, "heights": 2, "n": 7},
        {"terms": 4, "heights": 3, "ending": True},
    ],
)
def test_random_walks_beyond_the_bounds_are_sound(bounds):
    first = secrets.randbelow(2**31)
    print(f"Model(**{bounds}).walk(seed) from seed {first}")
    walks, judged = Model(**bounds).walks(400, first)
    assert judged.wrong is None, f"walk {first + walks - 1}: {judged.story}"


def test_a_walk_is_its_seed():
    one, other = Model(terms=4), Model(terms=4)
    other.walks(50, 1_000)
    assert one.walk(7) == other.walk(7)
    model = Model(terms=4, without=("once",))
    assert model.walk(3) == model.walk(3)


@pytest.mark.parametrize(("n", "plain"), [(5, 3), (6, 3), (21, 13)])
def test_two_f_plus_one_is_no_quorum(n, plain):
    """At n = 5, 6, 21 two sets of 2f + 1 meet in Byzantine validators alone."""
    if n == 21:
        _, judged = Model(n=n, terms=1, heights=1, quorum=plain).walks(200)
    else:
        judged = Model(n=n, terms=2, heights=1, quorum=plain).explore()
    assert judged.wrong is not None
    assert judged.story


def test_the_model_counts_like_the_engine():
    """Written twice on purpose: n, f and q must agree."""
    for n in range(4, 51):
        model = Model(n=n, terms=1, heights=1)
        assert (model.f, model.needed + model.f) == (faults(n), quorum(n))


def test_the_story_of_a_fork_can_be_read():
    judged = Model(terms=1, heights=2, without=("once",)).explore()
    assert judged.wrong == "1a>1a and 1a>1b are both final"
    assert judged.story[0] == "votes in 1 for 1a by EC"
    assert {"commits 1a>1a in 1", "commits 1a>1b in 1"} <= set(judged.story)


def test_the_model_commits_and_changes_leaders():
    """A model that cannot move proves nothing."""
    model = Model(terms=3, heights=2)
    most, terms = 0, 0
    for seed in range(60):
        world, judged = model.begin(), model.walk(seed)
        assert judged.wrong is None
        for what in judged.story:
            most += what.startswith("commits")
            terms += what.startswith("grants 3")
        assert world == model.begin()
    assert most > 100
    assert terms > 60


def test_rules_have_names():
    with pytest.raises(ValueError, match="no such rule"):
        Model(without=("locks",))
    assert {"high", "lock", "carried", "commit-term", "first", "increase", "once", "log"} <= set(RULES)
    assert Model().rank(GENESIS) == (0, 0)
