"""The three services by the names under which starts are remembered and faults are ordered."""

CURRENT = "transactionlink"
"""The current Transactionlink API."""

LEGACY = "transactionlink-legacy"
"""The legacy Transactionlink API, on the same server."""

B3OS = "b3os"
"""B3OS, under `/v1`."""

SERVICES = (CURRENT, LEGACY, B3OS)
