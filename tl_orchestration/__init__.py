"""
Transactionlink workflow executions from Python: run, poll, wait, result, cancel.
"""

from __future__ import annotations

from tl_orchestration.client import AsyncClient, Client
from tl_orchestration.credentials import OrganizationToken
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.pacing import Pacing
from tl_orchestration.settings import Settings
from tl_orchestration.start import Step
from tl_orchestration.status import Status
from tl_orchestration.wait import Patience

__all__ = [
    "AsyncClient",
    "Client",
    "Execution",
    "Handle",
    "OrganizationToken",
    "Pacing",
    "Patience",
    "RunRequest",
    "Settings",
    "Status",
    "Step",
]
