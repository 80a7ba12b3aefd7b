"""Importing this registers the methods of every module of handlers."""

from node.rpc import (
    address,
    bft,
    chain,
    control,
    device,
    energy,
    governance,
    mempool,
    mining,
    network,
    proof,
    psbt,
    rawtx,
)

__all__ = [
    "address",
    "bft",
    "chain",
    "control",
    "device",
    "energy",
    "governance",
    "mempool",
    "mining",
    "network",
    "proof",
    "psbt",
    "rawtx",
]
