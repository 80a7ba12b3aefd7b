"""docs/rpc.md knows every method as its help prints it, and docs/operations.md every default."""

from pathlib import Path

import node.rpc.methods  # noqa: F401  registers every method
from node.config import NodeConfig, parse_config
from node.rpc.registry import METHODS

HOME = Path("/srv/wattd")
DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_every_method_is_documented():
    text = (DOCS / "rpc.md").read_text()
    missing = [each.usage for each in METHODS.values() if f"`{each.usage}`" not in text]
    assert missing == []


def test_the_example_configuration_is_the_default():
    text = (DOCS / "operations.md").read_text()
    block = text.split("```toml\n")[1].split("```")[0].replace("<64 hex digits>", "ab" * 32)
    assert len(parse_config(block, HOME).peers) == 1
    without_peers = "\n\n".join(part for part in block.split("\n\n") if "[[peers]]" not in part)
    assert parse_config(without_peers, HOME) == NodeConfig(HOME, HOME / "chain.toml")
