"""Scripted workflow definitions: what an execution of each one does, and when."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import attrs

from tl_orchestration.sandbox.checks import (
    is_flag,
    is_json_object,
    is_number,
    is_object,
    is_seconds,
    is_text,
    require,
    require_known,
)
from tl_orchestration.sandbox.webhooks.scripts import Script, script

DECISIONS = ("approve", "reject")
"""What a scripted check or a person may decide."""

WITHOUT_RESULT = frozenset({"FAILED", "CANCELLED", "EXPIRED"})
"""Final statuses that leave no scripted result behind."""

FINAL = WITHOUT_RESULT | {"COMPLETED", "PARTIAL"}
"""The sandbox's own final statuses, which each service spells in its way (see `words`)."""

BEFORE_RUN = ("awaiting_payment", "payment_confirmed", "workflow_queued")
"""The statuses that a B3OS execution may have before it has a run, in their order."""

VISIBILITIES = ("private", "org", "public_view", "public_execute")
STATES = ("draft", "active", "paused", "archived")


def _duration(value: object) -> float | None:
    # TOML has no null, so that its `inf` is how a file says "never".
    if value is None or (is_number(value) and value == math.inf):
        return None
    if not is_seconds(value):
        raise ValueError(f"duration must be seconds from 0, or null for never, not {value!r}")
    return value


def _before_run(given: Any) -> Mapping[str, float | None]:
    require(is_object(given), "before_run must be an object of seconds", given)
    require_known(given, BEFORE_RUN)
    return {status: _duration(given[status]) for status in BEFORE_RUN if status in given}


@attrs.frozen(kw_only=True)
class Definition:
    """
    The script of one workflow definition.

    An execution copies its definition when it starts: a later change applies to later starts only.

    Args:
        duration: seconds of work until the outcome, counted from the start, or from the person's decision
            where the definition is interactive. `None`: never finishes by itself.
        outcome: the final status, normally one of `FINAL`; any text is taken, so that a client's handling
            of unknown statuses can be tried.
        active_status: the status until then.
        decision: what the scripted result decides; `None` for no result.
        result: given word for word instead of the scripted result, also with the outcome `FAILED`.
        interactive: a person has to decide on the hosted page; the answers carry `link` and `token`. In B3OS
            it waits to be resumed.
        revision: opaque name of this version of the definition.
        visibility: who may see and start it in B3OS: without a key only where it is `public_execute`.
        state: of the workflow in B3OS; one that is `archived` cannot be run.
        before_run: seconds in each of the statuses `BEFORE_RUN`, for B3OS executions; `None`: for ever.
        webhooks: what happens to its webhooks on the way, where there is anybody to deliver them to.

    Raises:
        ValueError: a value has the wrong type or range.
    """

    duration: float | None = attrs.field(default=1.0, converter=_duration)
    outcome: str = "COMPLETED"
    active_status: str = "RUNNING"
    decision: str | None = "approve"
    result: Mapping[str, Any] | None = None
    interactive: bool = False
    revision: str = "r1"
    visibility: str = "public_execute"
    state: str = "active"
    before_run: Mapping[str, float | None] = attrs.field(converter=_before_run, factory=dict)
    webhooks: Script = attrs.field(converter=script, factory=Script)

    def __attrs_post_init__(self) -> None:
        """Refuse values of the wrong type: they come from files and over HTTP."""
        require(is_text(self.outcome), "outcome must be a non-empty text", self.outcome)
        require(is_text(self.active_status), "active_status must be a non-empty text", self.active_status)
        require(is_text(self.revision), "revision must be a non-empty text", self.revision)
        require(is_flag(self.interactive), "interactive must be true or false", self.interactive)
        require(
            self.visibility in VISIBILITIES, f"visibility must be one of {', '.join(VISIBILITIES)}", self.visibility
        )
        require(self.state in STATES, f"state must be one of {', '.join(STATES)}", self.state)
        require(
            self.decision is None or self.decision in DECISIONS,
            "decision must be approve, reject or null",
            self.decision,
        )
        require(
            self.result is None or is_json_object(self.result),
            "result must be an object or null",
            self.result,
        )

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some fields changed. Raises `ValueError` for an unknown field or a wrong value."""
        require_known(changes, attrs.fields_dict(Definition))
        return attrs.evolve(self, **changes)

    def described(self) -> dict[str, Any]:
        """The fields as JSON members."""
        return attrs.asdict(self, recurse=False) | {"webhooks": attrs.asdict(self.webhooks)}


_PARTIAL_RESULT = {
    "decision": "approve",
    "riskScore": 34,
    "checks": [{"name": "sanctions", "outcome": "clear"}, {"name": "document", "outcome": "error"}],
}

SCRIPTED: Mapping[str, Definition] = MappingProxyType(
    {
        "kyc-approve": Definition(),
        "kyc-expire": Definition(outcome="EXPIRED", duration=3, decision=None),
        "kyc-fail": Definition(outcome="FAILED", decision=None),
        "kyc-partial": Definition(outcome="PARTIAL", result=_PARTIAL_RESULT),
        "kyc-private": Definition(visibility="private"),
        "kyc-reject": Definition(decision="reject"),
        "kyc-review": Definition(interactive=True, duration=0, decision=None),
        "kyc-slow": Definition(duration=600),
    }
)
"""The definitions that every sandbox has, by the name to use as `workflowDefinitionId`."""


def scripted_result(decision: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """
    The result document of a check with this decision.

    The customer's names are echoed where they were given, as a real result would name the person: a test
    that personal data stays out of logs and ledgers needs some in the result.
    """
    approved = decision == "approve"
    result: dict[str, Any] = {
        "decision": decision,
        "riskScore": 12 if approved else 87,
        "checks": [
            {"name": "sanctions", "outcome": "clear" if approved else "hit"},
            {"name": "document", "outcome": "clear"},
            {"name": "liveness", "outcome": "clear"},
        ],
    }
    if not approved:
        result["reasons"] = ["sanctions_hit"]
    customer = {name: parameters[name] for name in ("firstName", "lastName") if name in parameters}
    if customer:
        result["customer"] = customer
    return result


def merged(base: Mapping[str, Definition], changes: Mapping[str, Any]) -> dict[str, Definition]:
    """
    Definitions with changes by name laid over them.

    A change is a whole `Definition`, or an object of fields to change; a new name may say by `like` which
    definition it starts from (`kyc-approve` if it does not). Names may build on names before them.

    Raises:
        ValueError: unknown field, wrong value or unknown `like`; the sentence names the definition.
    """
    definitions = dict(base)
    for name, change in changes.items():
        try:
            definitions[name] = _laid_over(definitions, name, change)
        except ValueError as error:
            raise ValueError(f"definition {name!r}: {error}") from error
    return definitions


def _laid_over(definitions: Mapping[str, Definition], name: str, change: Any) -> Definition:
    if isinstance(change, Definition):
        return change
    require(is_object(change), "a definition must be an object of fields", change)
    fields = dict(change)
    like = fields.pop("like", name if name in definitions else "kyc-approve")
    require(isinstance(like, str) and like in definitions, "like must name a definition", like)
    return definitions[like].changed(fields)
