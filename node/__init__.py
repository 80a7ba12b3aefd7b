"""The daemon: composition root, driver, interfaces (rank 3)."""
