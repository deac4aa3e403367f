"""
Transactionlink workflow executions from Python: run, poll, wait, result, cancel.
"""

from __future__ import annotations

from tl_orchestration.client import AsyncClient, Client
from tl_orchestration.credentials import B3osKey, B3osPublic, OrganizationToken
from tl_orchestration.models import Execution, Handle, RunRequest
from tl_orchestration.options import B3osOptions, LegacyOptions
from tl_orchestration.pacing import Pacing
from tl_orchestration.settings import Settings
from tl_orchestration.start import Step
from tl_orchestration.status import Status
from tl_orchestration.wait import Patience
from tl_orchestration.workspace_key import WorkspaceKey

__all__ = [
    "AsyncClient",
    "B3osKey",
    "B3osOptions",
    "B3osPublic",
    "Client",
    "Execution",
    "Handle",
    "LegacyOptions",
    "OrganizationToken",
    "Pacing",
    "Patience",
    "RunRequest",
    "Settings",
    "Status",
    "Step",
    "WorkspaceKey",
]
