"""
A workflow definition with how to run it, as Prefect's JobBlock.
"""

from __future__ import annotations

import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypedDict, Unpack

from prefect.blocks.abstract import JobBlock
from pydantic import ConfigDict, Field, model_validator

from prefect_blocks import twins
from prefect_blocks.credentials import TransactionlinkCredentials
from prefect_blocks.run import TransactionlinkWorkflowRun

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from prefect_blocks.identity import Scope
    from prefect_blocks.twins import Twofold
    from tl_orchestration import B3osOptions, Execution, LegacyOptions, Pacing, RunRequest, Step
    from tl_orchestration.delivery import OnLink
    from tl_orchestration.ledger import Ledger
    from tl_orchestration.outcome import OutcomeRules
    from tl_orchestration.result_policy import Handover

_DAY = 24 * 3600.0

_OF_REQUEST = ("record_id", "expires_at", "expires_in", "locale", "options")
"""
What of :class:`Asked` goes into the request.
"""


class Asked(TypedDict, total=False):
    """
    What can be asked of a start beside its parameters.

    Args:
        step_key: Names this step in the flow run; not personal. Default: definition and ordinal of the call, which only
            sequential calls in the body of a flow have. It is needed in submitted and mapped tasks, and in subflows.
        key: A business key, for which at most one execution is started over all flow runs; kept in the SQL ledger of
            the credentials. Not personal, and not together with ``step_key``.
        record_id: UUID of the record that the execution is about.
        expires_at: When the service ends the execution: an aware datetime or ISO 8601 text.
        expires_in: The same, from the start; instead of the block's.
        locale: Instead of the block's.
        options: What only the service of the credentials takes.
        on_link: Called with the execution before the start returns, if a person has to act in it; it has ``link``.
    """

    step_key: str | None
    key: str | None
    record_id: str | None
    expires_at: datetime | str | None
    expires_in: timedelta | float | None
    locale: str | None
    options: LegacyOptions | B3osOptions | None
    on_link: OnLink | None


class TransactionlinkWorkflow(JobBlock):  # type: ignore[type-arg]  # pydantic would make another block of a parametrized one
    """
    Runs one workflow definition. Within a flow run, each step starts at most one execution, whatever crashes or is
    retried in between.

    Raises:
        InvalidRequest, InvalidSettings: When it is made: a field cannot be used.

    Example:
        Run a saved workflow and read a field of its result:
        ```python
        from prefect import flow
        from prefect_blocks import TransactionlinkWorkflow

        @flow
        def check_customer(record_id: str) -> str:
            workflow = TransactionlinkWorkflow.load("BLOCK_NAME")
            run = workflow.trigger(record_id=record_id)
            run.wait_for_completion()
            return run.outcome()["status"]
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Transactionlink Workflow"
    _block_type_slug = "transactionlink-workflow"
    _logo_url = "https://www.transactionlink.io/favicon.ico"  # type: ignore[assignment]  # as every collection does
    _documentation_url = "https://docs.transactionlink.io"  # type: ignore[assignment]
    _description = "Runs one workflow definition, at most once for each step of a flow run."

    credentials: TransactionlinkCredentials = Field(description="How to reach the service.")
    workflow_definition_id: str = Field(description="Id of the workflow definition, from the dashboard.")
    locale: str = Field(default="en", description="Language of what a person sees.")
    timeout: float = Field(
        default=_DAY,
        description="Seconds from the start of an execution to its deadline. Retries and resumes do not renew it.",
    )
    expires_in: float | None = Field(
        default=None,
        description="Seconds from the start until the service ends the execution. Default: the timeout, within what the"
        " service accepts (30 minutes to 30 days).",
    )
    poll_interval: float | None = Field(
        default=None, description="Seconds between polls. Default: an interval that grows with the time waited."
    )
    wait_mode: Literal["auto", "poll", "suspend"] = Field(
        default="auto",
        description="How to wait in the body of a deployed flow: auto suspends the flow run where Prefect can, suspend"
        " insists on it, poll keeps the process.",
    )
    suspend_after: float = Field(
        default=60.0,
        ge=0,
        description="Seconds of polling until a flow run is suspended: to go on, it needs a new process.",
    )
    on_cancel: Literal["cancel", "leave"] = Field(
        default="cancel",
        description="What happens to the execution when a person cancels the flow run, and at the deadline.",
    )
    retry_failed: bool = Field(
        default=False, description="A retry starts a new execution where the last one has ended without success."
    )
    on_unknown_start: Literal["fail", "restart", "repeat-same-key"] = Field(
        default="fail",
        description="After a start whose answer was lost: fail, accept one more start, or (B3OS) repeat it with the"
        " same idempotency key.",
    )
    on_changed_request: Literal["fail", "reattach"] = Field(
        default="fail", description="What a retry does that asks for something else than what the step has started."
    )
    on_link_lost: Literal["fail", "restart"] = Field(
        default="fail", description="What a retry does about an execution whose link was not delivered to anybody."
    )
    on_partial: Literal["fail", "accept"] = Field(
        default="fail", description="Whether an ending as PARTIAL is a failure or a success."
    )
    correlation_parameter: str | None = Field(
        default=None,
        description="Name of a parameter that the definition takes. Each start has a random id there, by which a person"
        " can find it after a start of unknown fate.",
    )
    status_map: dict[str, str] = Field(
        default_factory=dict, description="Status words of the service, each with its meaning, beside the credentials'."
    )
    result: str = Field(
        default="reference",
        description="What outcomes hold of the result: all of it (full), the execution's id only (reference, none), or"
        " a storage URI such as s3://bucket/kyc/: the result is written there, and outcomes say where.",
    )
    result_fields: dict[str, str] = Field(
        default_factory=dict, description="Name -> JMESPath over the result; outcomes hold these as fields."
    )
    fail_when: str | None = Field(default=None, description="JMESPath over the result; true fails the step.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        from tl_orchestration.errors import InvalidRequest

        if self.model_extra:
            unknown = ", ".join(sorted(map(repr, self.model_extra)))
            raise InvalidRequest(f"TransactionlinkWorkflow has no field {unknown}.")
        if not 0 < self.timeout < float("inf"):
            raise InvalidRequest("timeout must be a positive number of seconds.")
        try:
            self.pacing()
            self._step("check")
        except ValueError as error:
            raise InvalidRequest(f"A field of TransactionlinkWorkflow cannot be used: {error}.") from None
        self._request({}, {})
        self.credentials._settings(self.status_map)
        self.handover()
        return self

    def trigger(  # type: ignore[override]  # Prefect's is a coroutine without arguments
        self, parameters: Mapping[str, Any] | None = None, **asked: Unpack[Asked]
    ) -> TransactionlinkWorkflowRun:
        """
        Start an execution, or find the one that this step has started before.

        Args:
            parameters: JSON object for the definition. Stored nowhere.
            asked: See :class:`Asked`.

        Raises:
            InvalidRequest: An argument is wrong or missing. Nothing was sent.
            StartOutcomeUnknown: It may or may not have started, and was not repeated.
            RequestChanged: The step has started something else.
            TransactionlinkError: See :meth:`tl_orchestration.Client.run`.
        """
        return twins.run(self._run(parameters, asked, asynchronous=False))

    async def atrigger(
        self, parameters: Mapping[str, Any] | None = None, **asked: Unpack[Asked]
    ) -> TransactionlinkWorkflowRun:
        """
        As :meth:`trigger`. What ``on_link`` returns is awaited, if it can be.
        """
        return await twins.arun(self._run(parameters, asked, asynchronous=True))

    def attach(
        self, execution_id: str, *, timeout: float | None = None, api_version: int | None = None
    ) -> TransactionlinkWorkflowRun:
        """
        A run for an execution that somebody else has started. It owns nothing: neither a deadline nor the end of the
        flow run cancels the execution. Nothing is sent.

        Args:
            execution_id: Its id.
            timeout: Seconds from now after which a wait for it ends; None: once it ends or expires.
            api_version: 1 for a legacy execution that is about a case.

        Raises:
            InvalidRequest: That is no execution id.
        """
        from prefect_blocks import identity
        from tl_orchestration import Handle
        from tl_orchestration.answers import safe_id
        from tl_orchestration.errors import InvalidRequest

        identifier = safe_id(execution_id)
        if identifier is None:
            raise InvalidRequest("An execution id has letters, digits, '-', '_' and '.', and at most 128 characters.")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise InvalidRequest("timeout must be a positive number of seconds.")
        handle = Handle(
            execution_id=identifier,
            service=self.credentials.service,
            deadline=None if timeout is None else time.time() + timeout,
            api_version=api_version,
        )
        return TransactionlinkWorkflowRun(self, handle, flow_run_id=identity.flow_run_id())

    def rules(self) -> OutcomeRules:
        """
        How an ended execution is judged.

        Raises:
            InvalidRequest: An expression is not JMESPath.
        """
        from tl_orchestration.outcome import OutcomeRules

        return OutcomeRules(result_fields=self.result_fields, fail_when=self.fail_when, on_partial=self.on_partial)

    def pacing(self) -> Pacing:
        """
        When to poll.
        """
        from tl_orchestration import Pacing

        return Pacing() if self.poll_interval is None else Pacing.every(self.poll_interval)

    def needs_result(self) -> bool:
        """
        Whether an outcome cannot be told without the result.
        """
        return self.handover().need_result

    def handover(self) -> Handover:
        """
        What is handed on of a result.

        Raises:
            InvalidRequest: ``result`` or an expression cannot be used, or the credentials forbid it.
        """
        from prefect_blocks import results

        return results.handover(self.credentials, self.result, self.rules())

    def outcome(self, ended: Execution, result: dict[str, Any] | None) -> dict[str, Any]:
        """
        What is handed on of an execution that has succeeded. A result that goes to a storage is written here.

        Raises:
            ExecutionFailed: ``fail_when`` holds.
            InvalidRequest: The credentials forbid what was asked for.
            ResultShapeChanged: A field or a verdict cannot be read from the result.
            StorageFailed: The storage did not take the result.
        """
        from prefect_blocks import results
        from tl_orchestration.errors import ExecutionFailed

        verdict, returns = self.handover().returned(ended, result, results.written)
        if verdict == "fail":
            raise ExecutionFailed(f"fail_when holds for the result of execution {ended.id}.", execution_id=ended.id)
        if ended.handle.api_version == 1:
            returns["api_version"] = 1
        return returns

    def releases_worker(self, *, asynchronous: bool) -> bool:
        """
        Whether a wait at this place suspends the flow run.

        Args:
            asynchronous: Whether it is awaited.

        Raises:
            InvalidRequest: ``wait_mode`` is ``suspend``, and Prefect cannot suspend here.
        """
        from prefect_blocks import suspending

        if self.wait_mode == "poll":
            return False
        obstacle = suspending.obstacle(asynchronous=asynchronous)
        if obstacle is None:
            return True
        self._check_release(obstacle)
        self.say_once(f"Waiting for Transactionlink executions here keeps the process: {obstacle}.")
        return False

    def say_once(self, sentence: str) -> None:
        """
        To the log of the run, once in each process.
        """
        if sentence not in _said:
            _said.add(sentence)
            self.logger.info(sentence)

    def _insist(self, *, asynchronous: bool) -> Twofold[None]:
        """
        Before anything is started: that ``wait_mode`` can be kept. What an earlier pass has started is not left alone
        because its timer is gone.

        Raises:
            InvalidRequest: It is ``suspend``, and Prefect cannot suspend here, or nobody would wake the flow run.
        """
        from prefect_blocks import suspending
        from prefect_blocks.versions import PREFECT_FAILURES

        if self.wait_mode != "suspend":
            return
        obstacle = suspending.obstacle(asynchronous=asynchronous)
        if obstacle is None and not suspending.again():
            try:
                obstacle = yield from twins.blocking(suspending.unheard)
            except PREFECT_FAILURES as error:
                self.logger.warning("Prefect did not say whether it has a timer (%s).", type(error).__name__)
        self._check_release(obstacle)

    def _check_release(self, obstacle: str | None) -> None:
        from tl_orchestration.errors import InvalidRequest

        if obstacle is not None and self.wait_mode == "suspend":
            raise InvalidRequest(
                f"wait_mode='suspend' cannot be kept here: {obstacle}. Wait in the body of a deployed flow, or choose"
                " wait_mode='auto'."
            )

    def _run(
        self, parameters: Mapping[str, Any] | None, asked: Asked, *, asynchronous: bool
    ) -> Twofold[TransactionlinkWorkflowRun]:
        from prefect_blocks import identity, marks, showing, verdicts, waiting

        on_link = asked.get("on_link")
        request = self._request(parameters or {}, asked)
        self._check_storage()
        yield from self._insist(asynchronous=asynchronous)
        where = yield from twins.blocking(identity.scope)
        running = identity.flow_run_id()
        ledger, step = self._place(where, asked.get("step_key"), asked.get("key"))
        if where is not None and step is not None and getattr(ledger, "counted", False):
            counted = partial(identity.check_order, where, step.key, retry_failed=self.retry_failed)
            yield from twins.blocking(counted)
        if where is not None and step is not None:
            yield from twins.blocking(partial(marks.mark, where, step.key))

        def made(execution: Execution) -> TransactionlinkWorkflowRun:
            return TransactionlinkWorkflowRun(self, execution.handle, ledger=ledger, flow_run_id=running)

        start = twins.whole(lambda: self._start(request, ledger, step, on_link))
        with showing.start_unknown(self.workflow_definition_id, running), verdicts.way_out(_keeper(ledger)):
            execution = yield from waiting.uninterrupted(start, lambda started: made(started).cancel_if_decided())
        run = made(execution)
        yield from waiting.stoppable(running, run.cancel_quickly(), self._shown(run, execution, on_link))
        return run

    def _start(
        self, request: RunRequest, ledger: Ledger | None, step: Step | None, on_link: OnLink | None
    ) -> Twofold[Execution]:
        """
        Of the flow runs that ask for a key, the one that has started its execution owns it. For the others it is
        somebody else's.
        """
        from attrs import evolve

        from prefect_blocks import clients
        from prefect_blocks.notes import NotingLedger

        execution = yield from clients.asking(
            lambda client: client.run(request, key=step, timeout=self.timeout, on_link=on_link),
            self.credentials,
            ledger=ledger,
            status_map=self.status_map,
        )
        if step is None or not isinstance(ledger, NotingLedger) or not execution.reattached:
            return execution
        key = step.key
        owned = yield from twins.blocking(lambda: ledger.owns(key))
        return execution if owned else evolve(execution, handle=evolve(execution.handle, owned=False))

    def _check_storage(self) -> None:
        """
        Before anything is started: that its result can be written.

        Raises:
            InvalidRequest: It must not be.
            InvalidSettings: This process has no file system for the storage.
        """
        uri = self.handover().uri
        if uri is not None:
            from prefect_blocks import results

            results.storage(uri)

    def _request(self, parameters: Mapping[str, Any], asked: Asked) -> RunRequest:
        """
        Raises:
            InvalidRequest: An argument is wrong, or there is none of that name.
        """
        from tl_orchestration import RunRequest
        from tl_orchestration.errors import InvalidRequest

        if unknown := sorted(asked.keys() - Asked.__annotations__.keys()):
            raise InvalidRequest(f"A start takes no argument {', '.join(map(repr, unknown))}. Nothing was sent.")
        given: dict[str, Any] = {
            name: value for name, value in asked.items() if name in _OF_REQUEST and value is not None
        }
        if "expires_at" not in given and self.expires_in is not None:
            given.setdefault("expires_in", self.expires_in)
        return RunRequest(
            workflow_definition_id=self.workflow_definition_id,
            parameters=parameters,
            **{"locale": self.locale, **given},
        )

    def _place(self, where: Scope | None, step_key: str | None, key: str | None) -> tuple[Ledger | None, Step | None]:
        """
        Where this step is kept, and under which name.
        """
        from prefect_blocks import identity
        from prefect_blocks.ledger import FlowRunInputLedger
        from prefect_blocks.notes import NotingLedger
        from tl_orchestration.errors import InvalidRequest

        if key is not None:
            if step_key is not None:
                raise InvalidRequest("Give key or step_key, not both: a key names the step in all flow runs.")
            ledger = self.credentials.sql_ledger()
            if where is not None:
                name = self.credentials.saved_name()
                ledger = NotingLedger(ledger, where.flow_run_id, credentials=name, on_cancel=self.on_cancel)
            return ledger, self._step(key)
        if where is not None:
            name = identity.default_step_key(where, self.workflow_definition_id) if step_key is None else step_key
            kept = FlowRunInputLedger(
                where.flow_run_id,
                credentials=self.credentials.saved_name(),
                on_cancel=self.on_cancel,
                counted=step_key is None,
            )
            return kept, self._step(name)
        task_run_id = identity.task_run_id()
        if task_run_id is not None:
            return _ledger_of_tasks(), self._step(f"{task_run_id}/{step_key or self.workflow_definition_id}")
        self.say_once(
            "Outside of a flow run nothing keeps Transactionlink executions from being started again by a retry, unless"
            " they are triggered with a key."
        )
        return None, None

    def _step(self, key: str) -> Step:
        from tl_orchestration import Step

        return Step(
            key=key,
            retry_failed=self.retry_failed,
            on_partial=self.on_partial,
            on_unknown_start=self.on_unknown_start,
            on_changed_request=self.on_changed_request,
            on_link_lost=self.on_link_lost,
            correlation_parameter=self.correlation_parameter,
        )

    def _shown(self, run: TransactionlinkWorkflowRun, execution: Execution, on_link: OnLink | None) -> Twofold[None]:
        from prefect_blocks import showing

        self._announce(execution, on_link)
        yield from twins.blocking(lambda: showing.started(run, execution))

    def _announce(self, execution: Execution, on_link: OnLink | None) -> None:
        self.logger.info(
            "%s execution %s of %s.",
            "Went on with" if execution.reattached else "Started",
            execution.id,
            self.workflow_definition_id,
        )
        if on_link is None and execution.is_interactive and not execution.is_terminal:
            self.logger.warning(
                "Execution %s waits for a person on its hosted page, and nobody was given the link.", execution.id
            )


def _keeper(ledger: Ledger | None) -> UUID | None:
    """
    The flow run that keeps the step, if one does.
    """
    return getattr(ledger, "flow_run_id", None)


@lru_cache(maxsize=1)
def _ledger_of_tasks() -> Ledger:
    """
    For tasks outside of any flow run: their retries happen in the same process.
    """
    from tl_orchestration.ledger import MemoryLedger

    return MemoryLedger()


_said: set[str] = set()


__all__ = ["Asked", "TransactionlinkWorkflow"]
