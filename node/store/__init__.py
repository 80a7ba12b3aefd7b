"""Tools on the data directory of a node that does not run: ``wattd store``."""
