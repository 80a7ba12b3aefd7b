"""Native kernels and their pure-Python twin (rank 0)."""
