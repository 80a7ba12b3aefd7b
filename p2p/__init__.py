"""Encrypted transport, gossip and block sync (rank 2)."""
