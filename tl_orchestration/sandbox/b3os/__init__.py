"""B3OS: execution sessions and runs under `/v1`."""
