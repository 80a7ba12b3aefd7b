import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.bft.quorum import faults, quorum


@pytest.mark.parametrize(
    ("n", "f", "q"),
    [
        (1, 0, 1),
        (2, 0, 2),
        (3, 0, 3),
        (4, 1, 3),
        (5, 1, 4),
        (6, 1, 4),
        (7, 2, 5),
        (10, 3, 7),
        (13, 4, 9),
        (19, 6, 13),
        (21, 6, 14),
        (22, 7, 15),
        (50, 16, 34),
    ],
)
def test_table_1_1(n, f, q):
    assert (faults(n), quorum(n)) == (f, q)


@given(st.integers(4, 10_000))
def test_quorums_meet_in_an_honest_node_and_the_honest_make_one(n):
    f, q = faults(n), quorum(n)
    assert 2 * q - n >= f + 1
    assert n - f >= q
    assert n >= 3 * f + 1


@pytest.mark.parametrize("n", [0, -1])
def test_an_empty_set_decides_nothing(n):
    with pytest.raises(ValueError):
        quorum(n)
    with pytest.raises(ValueError):
        faults(n)
