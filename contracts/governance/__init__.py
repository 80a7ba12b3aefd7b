"""Governance: who is an organisation, and whom the organisations want as delegates."""
