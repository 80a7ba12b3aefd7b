"""The energy contract: members, order book, clearing, readings, settlement and bills."""
