"""What is valid and who decides: pure rules and engines (rank 1)."""
