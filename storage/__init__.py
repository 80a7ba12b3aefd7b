"""LevelDB and append-only segment files (rank 2)."""
