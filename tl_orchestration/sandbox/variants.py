"""
What the public documentation leaves open or says in two ways: one named variant for each, set in the settings
(`[variants]` in a file) and changed on a running sandbox by `PATCH /_sandbox/variants`.

Rows C1 to C40 are those of the table of contradictions in the project's contract of the three APIs, the others
its sections. Of that table, C6 is a slip of one page; C14, C21, C39 and C40 are about the client alone; C20
and C35 to C37 about what a receiver of webhooks makes of them, and C34 about lists, which this sandbox does not have.
"""

import threading
from collections.abc import Mapping
from typing import Any

import attrs

from tl_orchestration.sandbox.checks import is_object, require, require_known

Value = str | int | bool


@attrs.frozen
class Variant:
    """
    One open question.

    Args:
        name: its name in settings.
        allowed: the readings; the first is the default.
        row: where the contract tells of it.
        says: what depends on it.
    """

    name: str
    allowed: tuple[Value, ...]
    row: str
    says: str

    def check(self, value: object) -> Value:
        """The value, if it is one of the readings. Raises `ValueError` if not; true is not 1 here."""
        for reading in self.allowed:
            if type(value) is type(reading) and value == reading:
                return reading
        names = ", ".join(
            str(reading).lower() if isinstance(reading, bool) else str(reading) for reading in self.allowed
        )
        raise ValueError(f"{self.name} must be one of {names}, not {value!r}")


_NO_OR_YES = (False, True)
_YES_OR_NO = (True, False)

TABLE = (
    # Transactionlink, current and legacy
    Variant(
        "running_word",
        ("RUNNING", "CREATED", "PENDING", "STARTED", "IN_PROGRESS", "AWAITING", "WAITING", "PAUSED"),
        "C1",
        "the word for an active execution",
    ),
    Variant("completed_word", ("COMPLETED", "FINISHED", "SUCCESS", "SUCCEEDED", "DONE"), "C1", "the word for success"),
    Variant(
        "failed_word", ("FAILED", "ERROR", "FAILURE", "REJECTED", "TERMINATED", "ABORTED"), "C1", "the word for failure"
    ),
    Variant("cancelled_word", ("CANCELLED", "CANCELED"), "C1", "the word for cancelled"),
    Variant("expired_word", ("EXPIRED", "TIMED_OUT", "TIMEOUT"), "C1", "the word for expired"),
    Variant("status_case", ("upper", "lower"), "C1", "the letters of these words"),
    Variant(
        "status_shape",
        ("by-start", "by-accept", "legacy", "full"),
        "C2",
        "the form of GET /workflows/{id} and its result: by who started it, by Accept, always legacy, never legacy",
    ),
    Variant("version_3", ("taken", 406), "C3", "an Accept header with version 3 or more: taken as the newest, or 406"),
    Variant("organization_token_form", ("raw", "bearer", "either"), "C4", "how a tot_ token must be sent"),
    Variant("parameters_required", _NO_OR_YES, "C5", "whether a start without parameters is 400"),
    Variant(
        "bad_credentials_status", (401, 400), "C7", "POST /auth/authorize and /auth/refresh with wrong credentials"
    ),
    Variant(
        "refresh_answer",
        ("full", "access-only", "absent"),
        "C8",
        "POST /auth/refresh: as authorize; without refreshToken; no such endpoint",
    ),
    Variant("origin_in_answer", _YES_OR_NO, "C9", "whether current answers have origin"),
    Variant(
        "interactive_execution_type",
        ("BACKGROUND", "INTERACTIVE", "HOSTED", "EMBEDDED", "absent"),
        "C10",
        "executionType of an interactive execution",
    ),
    Variant("link_format", ("query", "path"), "C11", "a link with ?token=..., or one that ends in /{uuid}"),
    Variant("result_not_ready", (404, 400), "C12", "the result of an execution that is not over"),
    Variant("result_of_failed", (404, 200), "C12", "the result of one that is over without any: 404, or 200 with {}"),
    Variant("cancel_finished", (200, 400, 409), "C13", "the cancel of an execution that is over"),
    Variant(
        "cancel_answer",
        ("200-empty", "204-empty", "200-json"),
        "C13",
        "status and body of a cancel that is not refused",
    ),
    Variant("case_numbers", ("taken", 400), "C15", "numbers for personalNumber and phone, where the schema says text"),
    Variant("case_path", ("cases", "case", "both"), "C16", "where a case is read: /cases/{id}, /case/{id}, or both"),
    Variant(
        "legacy_result",
        ("party", "status", "status-nested"),
        "C17",
        "beside a legacy result: createdDate, caseId, partyId; or id, caseId, status; or these, it under custom",
    ),
    Variant("parameters_id", ("parametersId", "id"), "C18", "the member that names a new parameters set"),
    Variant("parameters_status", (201, 200), "C18", "the status of POST /parameters"),
    Variant("unknown_record", ("taken", 404), "C22", "a recordId that is no case made here: taken, or 404"),
    Variant("expiry_rule", ("enforced", "absent"), "C23", "whether expiresAt must be 30 minutes to 30 days ahead"),
    Variant(
        "link_in_status", _YES_OR_NO, "A4.2", "whether the status of an interactive execution repeats link and token"
    ),
    Variant(
        "webhook_id",
        ("workflowId", "workflowExecutionId", "executionId", "id"),
        "C19",
        "the member of a webhook's body that names the execution",
    ),
    Variant("webhook_nesting", ("top", "data", "payload"), "C19", "where it is: at the top, or under data or payload"),
    Variant("legacy_organization_token", _NO_OR_YES, "A6", "whether the legacy endpoints take a tot_ token"),
    Variant(
        "legacy_cancel",
        ("absent", "cancels"),
        "A6",
        "POST /workflows/{id}/cancel of a legacy execution: 404, or as for a current one",
    ),
    Variant("unknown_reference", (404, 400, "taken"), "A6", "a caseId or parametersId that was never made"),
    Variant("timestamps", ("Z", "+02:00"), "A9", "how times are written, also by B3OS"),
    # B3OS
    Variant(
        "envelope",
        ("code-data", "success-data"),
        "C24",
        "answers as {code, data, message, requestId} or {success, data}",
    ),
    Variant("success_code", (200, 0), "C25", "code of a success"),
    Variant(
        "error_envelope",
        ("code-message", "success-error", "text", "html"),
        "C26",
        "errors as {code, message, details, requestId}, {success, error}, plain text or a web page",
    ),
    Variant("partial_word", ("partial", "succeeded", "failed"), "C27", "what an outcome that is partly good is called"),
    Variant(
        "organization_header", ("optional", "required"), "C28", "whether X-Org-ID must be sent with a key, else 403"
    ),
    Variant("public_response_payload", _NO_OR_YES, "C29", "whether the public GET of an execution has responsePayload"),
    Variant(
        "public_execution_shape", ("flat", "nested"), "C30", "the public GET of an execution: flat, or under execution"
    ),
    Variant("public_run_id", ("runId", "id"), "C30", "the member that names a run in its public GET"),
    Variant("run_needs_active", _NO_OR_YES, "C31", "whether a draft or paused workflow is 400 on run"),
    Variant(
        "retry_answer",
        ("both", "run", "run-id"),
        "C32",
        "the answer of a retry: a run that also has runId, a run, or {runId}",
    ),
    Variant("resume_answer", ("bare", "data"), "C33", "the answer of a resume: bare, or in the envelope"),
    Variant(
        "idempotency",
        ("same", "second", "conflict"),
        "C38",
        "an idempotencyKey for the second time: the same execution, a second one, or 409",
    ),
    Variant("unknown_execution", (404, 400), "B2", "the status for an execution that does not exist"),
)
"""Every open question that shows on the wire."""

_BY_NAME = {variant.name: variant for variant in TABLE}


def checked(given: Mapping[str, object]) -> dict[str, Value]:
    """Readings by name, if all are known and allowed. Raises `ValueError` with one sentence."""
    require(is_object(given), "variants must be a table", given)
    require_known(given, _BY_NAME)
    return {name: _BY_NAME[name].check(value) for name, value in given.items()}


class Variants:
    """
    The readings in force; may be changed from any thread.

    Args:
        first: readings other than the defaults, already checked.
    """

    def __init__(self, first: Mapping[str, Value]) -> None:
        self._values: dict[str, Value] = {variant.name: variant.allowed[0] for variant in TABLE} | dict(first)
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Any:
        """The reading of one question."""
        return self._values[name]

    def change(self, changes: Mapping[str, object]) -> None:
        """Take other readings, all or none. Raises `ValueError` for an unknown name or reading."""
        values = checked(changes)
        with self._lock:
            self._values = self._values | values

    def described(self) -> list[dict[str, Any]]:
        """Name, value, allowed values, row of the contract and meaning of each, as JSON."""
        values = self._values
        return [attrs.asdict(variant) | {"value": values[variant.name]} for variant in TABLE]
