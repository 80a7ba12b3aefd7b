"""Imports every module of handlers, so that their methods are registered."""

from node.rpc import bft, chain, control, device, energy, mempool, network, rawtx

__all__ = ["bft", "chain", "control", "device", "energy", "mempool", "network", "rawtx"]
