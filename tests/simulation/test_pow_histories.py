"""A slice of the histories that ``python -m tests.simulation --kind pow`` plays by the thousand."""

import pytest

from tests.simulation.pow_histories import (
    forgery,
    healing,
    lying,
    rewriting,
    selfishness,
    storm,
    takeover,
)


@pytest.mark.parametrize(
    ("history", "nodes", "count"),
    [
        (storm, 1, 1),
        (storm, 3, 3),
        (storm, 6, 2),
        (rewriting, 2, 8),
        (selfishness, 3, 2),
        (takeover, 4, 2),
        (forgery, 4, 2),
        (healing, 6, 3),
        (lying, 2, 1),
    ],
)
def test_histories(history, nodes, count):
    for seed in range(1_000 * nodes, 1_000 * nodes + count):
        try:
            history(nodes, seed)
        except Exception as error:
            raise AssertionError(f"{history.__name__}({nodes}, {seed})") from error


def test_a_node_whose_question_was_lost_comes_back():
    """A history in which one stayed on its own branch for ever, since nobody was asked a second time."""
    storm(5, 8)
