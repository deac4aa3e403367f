"""The legacy Transactionlink API: authorization by key and secret, cases, parameters, `/workflows/run`."""
