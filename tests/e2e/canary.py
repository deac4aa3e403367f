"""
Values that must not be found anywhere in an orchestrator: long, unique, and like nothing else.
"""

from __future__ import annotations

FIRST_NAME = "Zwartkops-7f3a1c"
DOCUMENT_NUMBER = "DOC-55817-XQ-canary"
CANARIES = (FIRST_NAME, DOCUMENT_NUMBER)
TOKEN = "tot_sandbox"
