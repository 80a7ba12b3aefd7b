"""Energy trading and device contracts: pure state transitions (rank 2)."""
