"""The status and result of an execution as the legacy API tells them."""

from collections.abc import Mapping
from typing import Any, Literal

from tl_orchestration.sandbox.clock import to_text
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.words import transactionlink_word

Version = Literal[1, 2]


def legacy_status(store: Store, execution: Execution, version: Version) -> dict[str, Any]:
    """
    The answer of a start or status request.

    A case told in version 2, and a record told in version 1, keep their id: records took the place of cases.
    It is null where there is neither.
    """
    status = execution.status_at(store.clock.now())
    return {
        "id": execution.id,
        "caseId" if version == 1 else "recordId": execution.case_id or execution.record_id,
        "status": transactionlink_word(status, store.variants),
    }


def legacy_result(store: Store, execution: Execution, version: Version, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the members that the legacy API puts beside it; what the workflow says goes before."""
    reading = store.variants["legacy_result"]
    if reading == "status-nested":
        return legacy_status(store, execution, version) | {"custom": result}
    if reading == "status":
        return legacy_status(store, execution, version) | dict(result)
    beside: dict[str, Any] = {"createdDate": to_text(execution.started_at, store.variants["timestamps"])}
    beside["caseId" if version == 1 else "recordId"] = execution.case_id or execution.record_id
    case = store.cases.cases.get(execution.case_id or "")
    if case is not None:
        beside["partyId"] = case.party_id
        if version == 1:
            beside["partyDetails"] = case.party_details
    return beside | dict(result)
