"""The protocol's page says what the code does."""

import re
from pathlib import Path

from p2p import limits
from p2p.bans import POINTS
from p2p.messages import TABLE

PAGE = (Path(__file__).parents[3] / "docs" / "p2p.md").read_text()


def test_every_message_with_its_fields_size_and_class():
    rows = {
        int(row[0]): row
        for row in re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \| ([\d,]+) \| (.*) \|$", PAGE, re.M)
    }
    assert sorted(rows) == [spec.code for spec in TABLE]
    for spec in TABLE:
        _, name, fields, size, kind = rows[spec.code]
        assert name == spec.message.__name__.lower()
        assert int(size.replace(",", "")) == spec.max_bytes
        assert kind == spec.rate + (", urgent" if spec.urgent else "")
        for field, _ in spec.fields:
            assert field in fields or field in ("blocks", "raw"), (name, field)


def test_every_code_with_its_points():
    said = {}
    for points, codes in re.findall(r"^\| (\d+) \| (`[^|]*) \|$", PAGE, re.M):
        said.update(dict.fromkeys(re.findall(r"`([a-z-]+)`", codes), int(points)))
    assert said == POINTS


def test_rates():
    for name, rate in limits.RATES.items():
        assert f"{name} {rate.per_s:,} ({rate.burst:,})" in PAGE
    assert f"{limits.PEER_TX_RATE.per_s:,} ({limits.PEER_TX_RATE.burst:,})" in PAGE
    assert limits.BYTES_RATE.per_s == 128 * 1_048_576
