"""Evidence survives restarts, is bounded, and a damaged file stops nobody."""

import pytest

from consensus import canonical
from consensus.bft.shown import Evidence, Given, Signed, Vote
from consensus.errors import StorageError
from node.evidence import EvidenceBook, Kept
from node.limits import MAX_EVIDENCE, MAX_EVIDENCE_BYTES
from storage.files import Files


def pair(offender=1, term=1, height=1, vote=Vote.VALIDATED):
    return Evidence(
        offender, *(Signed(vote, term, height, bytes([at]) * 32, bytes([at]) * 64) for at in (1, 2))
    )


def test_it_comes_back_after_a_restart(tmp_path):
    book = EvidenceBook(tmp_path / "evidence.bin")
    assert len(book) == 0
    given = [pair(), pair(2, 0xFFFF_FFFF, 0xFFFF_FFFF), pair(vote=Vote.PROPOSE)]
    for at, each in enumerate(given):
        assert book.add(each, 1_700_000_000 + at, 0)
    again = EvidenceBook(tmp_path / "evidence.bin")
    assert [(kept.evidence, kept.seen_s - 1_700_000_000) for kept in again] == list(
        zip(given, range(3), strict=True)
    )


def test_a_file_from_before_rounds_is_of_round_0(tmp_path):
    path = tmp_path / "evidence.bin"
    shown = [[1, 1, 1, bytes([at]) * 32, bytes([at]) * 64] for at in (1, 2)]
    path.write_bytes(canonical.encode([1, [[1, *shown, 7]]]))
    assert list(EvidenceBook(path)) == [Kept(pair(), 7, 0)]


def test_all_kinds_are_kept_with_their_round(tmp_path):
    lock = 1, 1, bytes(32), bytes(64)
    book = EvidenceBook(tmp_path / "evidence.bin")
    given = [
        Evidence(3, Given(4, 0, *lock), Given(4, 1, *lock)),
        Evidence(3, Signed(Vote.COMMIT, 2, 9, bytes(32), bytes(64)), Given(4, 1, *lock)),
        pair(3),
    ]
    for at, each in enumerate(given):
        assert book.add(each, 1, at)
        assert book.add(each, 1, 50)
        assert not book.add(each, 2, at)
    again = EvidenceBook(tmp_path / "evidence.bin")
    assert [(kept.evidence, kept.round) for kept in again if kept.round < 50] == list(
        zip(given, range(3), strict=True)
    )


def test_blocks_are_offered_it_with_its_round_oldest_first(tmp_path):
    book = EvidenceBook(tmp_path / "evidence.bin")
    for at in (2, 1):
        book.add(pair(at), 1, 7 + at)
    assert list(book.pairs()) == [(9, pair(2)), (8, pair(1))]


def test_one_contradiction_is_kept_once(tmp_path):
    book = EvidenceBook(tmp_path / "evidence.bin")
    assert book.add(pair(), 1, 0)
    assert not book.add(pair(), 2, 0)
    assert not EvidenceBook(tmp_path / "evidence.bin").add(pair(), 3, 0)
    assert len(book) == 1


def test_the_oldest_makes_room_and_the_largest_file_can_be_read(tmp_path):
    path = tmp_path / "evidence.bin"
    book = EvidenceBook(path)
    for height in range(MAX_EVIDENCE + 3):
        book.add(pair(49, 0xFFFF_FFFF, 0xFFFF_0000 + height), 0xFFFF_FFFF, 0xFFFF_FFFF)
    heights = [kept.evidence.first.height - 0xFFFF_0000 for kept in EvidenceBook(path)]
    assert heights == list(range(3, MAX_EVIDENCE + 3))
    assert path.stat().st_size <= MAX_EVIDENCE_BYTES


@pytest.mark.parametrize(
    "damage", [b"", b"\x00", b"\x92\x03\x90", b"\x92\x01\x91\x94\x01\x90\x90\x00", b"x" * 300]
)
def test_a_damaged_file_is_put_aside(tmp_path, damage):
    path = tmp_path / "evidence.bin"
    path.write_bytes(damage)
    book = EvidenceBook(path)
    assert len(book) == 0
    assert (tmp_path / "evidence.damaged").read_bytes() == damage
    book.add(pair(), 1, 0)
    assert len(EvidenceBook(path)) == 1


def test_a_disk_that_fails_is_told(tmp_path):
    class Full(Files):
        def write(self, fd, data, offset):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError) as caught:
        EvidenceBook(tmp_path / "evidence.bin", Full()).add(pair(), 1, 0)
    assert caught.value.code == "evidence-not-written"
    with pytest.raises(StorageError) as caught:
        EvidenceBook(tmp_path)
    assert caught.value.code == "evidence-not-read"
