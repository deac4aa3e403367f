"""
A step on a real Airflow: what it returns, what it survives, what it says when it cannot work.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from dev import sessions
from tests.e2e.canary import CANARIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from dev.airflow_rig import AirflowRig
    from tests.e2e.conftest import Begun
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(600)
begins = pytest.mark.begins


def run(airflow: AirflowRig, dag_id: str, **conf: str) -> tuple[str, str]:
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, conf)
    return run_id, airflow.wait_for_run(dag_id, run_id)


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    ends = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < ends, "the condition was not met in time"
        time.sleep(0.1)
    return met


def log_of(airflow: AirflowRig, dag_id: str, run_id: str, task_id: str = "check", tries: int = 1) -> str:
    return "\n".join(airflow.task_log(dag_id, run_id, task_id, number) for number in range(1, tries + 1))


def waits_again(
    airflow: AirflowRig, oracle: Oracle, dag_id: str, run_id: str, definition: str, starts: int = 1
) -> None:
    """The second try has polled for the last of so many executions, which ends then."""
    airflow.wait_for_task(dag_id, run_id, "check", {"running", "deferred"}, try_number=2)
    until(lambda: len(oracle.started(definition)) == starts)
    polled = oracle.polls(definition)
    until(lambda: oracle.polls(definition) > polled)
    oracle.end(oracle.started(definition)[-1])


@pytest.mark.parametrize(
    ("decision", "risk"),
    [
        pytest.param("approve", 12, marks=begins("deferred", like="kyc-approve", duration=20)),
        pytest.param("reject", 87, marks=begins("deferred", like="kyc-reject", duration=20)),
    ],
)
def test_deferred_step_returns_the_decision(
    airflow: AirflowRig, oracle: Oracle, begun: Begun, decision: str, risk: int
) -> None:
    """A deferred step ends with its execution and hands on what result_fields names, with one commit."""
    assert begun.ends() == "success"

    run_id = begun.run_id
    returned = airflow.xcom("deferred", run_id, "check")
    assert oracle.started(begun.definition) == [returned["execution_id"]]
    assert returned == {
        "execution_id": returned["execution_id"],
        "status": "SUCCEEDED",
        "fields": {"decision": decision, "risk": risk},
    }
    assert "Pausing task as DEFERRED" in log_of(airflow, "deferred", run_id)
    link = airflow.extra_links("deferred", run_id, "check")["Transactionlink execution"]
    assert link == f"{oracle.url}/executions/{returned['execution_id']}"


@begins("grace", like="kyc-approve", duration=1)
def test_fast_execution_never_defers(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """An execution that ends within defer_after is waited for in the worker."""
    assert begun.ends() == "success"

    assert len(oracle.started(begun.definition)) == 1
    assert "DEFERRED" not in log_of(airflow, "grace", begun.run_id)


@pytest.mark.parametrize(
    "sentence",
    [
        pytest.param(sentence, marks=begins("deferred", conf=conf), id=name)
        for name, conf, sentence in [
            ("token", {"connection": "wrong_token"}, "does not accept the credential (401)"),
            ("permission", {"connection": "may_not_run"}, "lacks the permission can_run"),
            ("definition", {"definition": "no-such"}, "does not know workflow definition no-such (404)"),
            ("kind", {"connection": "wrong_kind"}, "is of type 'http', not 'transactionlink'"),
            ("undefined", {"connection": "no_such_connection"}, "There is no connection 'no_such_connection'"),
            ("host", {"connection": "foreign_host"}, "The host example.org is not on the allow-list"),
        ]
    ],
)
def test_what_no_retry_can_mend_fails_at_once(airflow: AirflowRig, oracle: Oracle, begun: Begun, sentence: str) -> None:
    """A mistake that a retry cannot mend ends the task in its first try, with one sentence and nothing started."""
    assert begun.ends() == "failed"

    task = airflow.task_instance("deferred", begun.run_id, "check")
    log = log_of(airflow, "deferred", begun.run_id)
    assert (task.state, task.try_number) == ("failed", 1)
    assert oracle.started(begun.definition) == oracle.started("no-such") == []
    assert sentence in log
    assert "tot_wrong" not in log
    assert not [canary for canary in CANARIES if canary in log]


@begins("deferred", conf={"connection": "unreachable"})
def test_unreachable_host_is_tried_again_and_starts_nothing(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """A service that cannot be reached may be back at the next try: the task says so and is retried."""
    assert begun.ends() == "failed"

    task = airflow.task_instance("deferred", begun.run_id, "check")
    log = log_of(airflow, "deferred", begun.run_id)
    assert (task.state, task.try_number) == ("failed", 3)
    assert oracle.started(begun.definition) == []
    assert "could not be reached" in log
    assert "Nothing was sent" in log


@begins("bad_parameters")
def test_parameters_that_are_not_json_are_named_before_anything_is_sent(
    airflow: AirflowRig, oracle: Oracle, begun: Begun
) -> None:
    """A parameter that JSON cannot hold is named by its path, and nothing is sent."""
    assert begun.ends() == "failed"

    assert "parameters.when is a set, which JSON cannot hold" in log_of(airflow, "bad_parameters", begun.run_id)
    assert airflow.task_instance("bad_parameters", begun.run_id, "check").try_number == 1
    assert oracle.started(begun.definition) == []


def test_killed_between_start_and_defer_goes_on_with_the_same_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of the task after the start: the retry waits for what was started, and nothing starts twice."""
    definition = oracle.define("killed", like="kyc-approve", duration=None)
    airflow.wait_for_dag("grace")
    run_id = airflow.trigger("grace", {"definition": definition})
    pid = airflow.task_process("grace", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "grace", run_id))

    os.kill(pid, signal.SIGKILL)
    waits_again(airflow, oracle, "grace", run_id, definition)

    assert airflow.wait_for_run("grace", run_id) == "success"
    assert airflow.task_instance("grace", run_id, "check").try_number == 2
    assert oracle.started(definition) == [airflow.xcom("grace", run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []


def test_killed_during_the_start_never_starts_again(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL while the answer of the start is under way: the retry says what to look for, and stops."""
    definition = oracle.define("lost", like="kyc-approve", duration=1)
    oracle.fault(on="start", definition=definition, kind="hold", seconds=90)
    airflow.wait_for_dag("grace")
    run_id = airflow.trigger("grace", {"definition": definition})
    pid = airflow.task_process("grace", run_id, "check")
    until(lambda: oracle.started(definition))

    os.kill(pid, signal.SIGKILL)

    assert airflow.wait_for_run("grace", run_id) == "failed"
    task = airflow.task_instance("grace", run_id, "check")
    assert task.try_number == 2
    log = log_of(airflow, "grace", run_id, tries=2)
    assert "may or may not have started" in log
    (start,) = [start for start in oracle.starts() if start["definition"] == definition]
    assert f"Look for caseRef = {start['parameters']['caseRef']} among the executions' parameters" in log


def test_marked_failed_while_running_cancels_the_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """A person who marks the running task failed cancels its execution, in the middle of a poll; it is no success."""
    definition = oracle.define("stopped", like="kyc-slow")
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    pid = airflow.task_process("in_worker", run_id, "check")
    until(lambda: oracle.polls(definition))
    polled = oracle.polls(definition)
    oracle.fault(on="status", definition=definition, kind="hold", seconds=25)
    until(lambda: oracle.polls(definition) > polled)

    airflow.set_task_state("in_worker", run_id, "check", "failed")
    until(lambda: not sessions.alive(pid))

    assert oracle.order(definition) == ["start", "cancel"]
    assert airflow.wait_for_run("in_worker", run_id) == "failed"
    assert airflow.task_instance("in_worker", run_id, "check").state == "failed"
    until(lambda: "was cancelled" in log_of(airflow, "in_worker", run_id))


def link_of(airflow: AirflowRig, run_id: str) -> str | None:
    return airflow.extra_links("in_worker", run_id, "check")["Transactionlink execution"]


def test_signal_without_a_decision_leaves_the_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGTERM alone is no decision: nothing is cancelled, and the next try goes on; the link is there meanwhile."""
    definition = oracle.define("signalled", like="kyc-approve", duration=None)
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    pid = airflow.task_process("in_worker", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "in_worker", run_id))
    (execution_id,) = oracle.started(definition)
    # The button in the task's page is there while a worker waits, not only once the task has ended or deferred.
    until(lambda: (link_of(airflow, run_id) or "").endswith(f"/executions/{execution_id}"))

    os.kill(pid, signal.SIGTERM)
    waits_again(airflow, oracle, "in_worker", run_id, definition)

    assert airflow.wait_for_run("in_worker", run_id) == "success"
    assert airflow.task_instance("in_worker", run_id, "check").try_number == 2
    assert oracle.started(definition) == [execution_id]
    assert oracle.cancelled(definition) == []


def test_stopped_during_the_start_cancels_what_was_started(airflow: AirflowRig, oracle: Oracle) -> None:
    """Marked failed while the start is under way: the start is not cut off, and what it started is cancelled."""
    definition = oracle.define("stopped-early", like="kyc-slow")
    # Airflow kills the process five seconds after its signal. If that is late, the step waits in its worker already.
    oracle.fault(on="start", definition=definition, kind="hold", seconds=2)
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    airflow.task_process("in_worker", run_id, "check")
    execution_id = until(lambda: oracle.started(definition))[0]

    airflow.set_task_state("in_worker", run_id, "check", "failed")

    assert until(lambda: oracle.cancelled(definition)) == [execution_id]
    assert airflow.task_instance("in_worker", run_id, "check").state == "failed"


def cleared_while_running(airflow: AirflowRig, oracle: Oracle, dag_id: str, starts: int) -> str:
    """Clear a step that waits in its worker, and see its run succeed after so many starts: its definition."""
    definition = oracle.define(f"cleared-{dag_id}", like="kyc-approve", duration=None)
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, {"definition": definition})
    airflow.task_process(dag_id, run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, dag_id, run_id))

    airflow.clear(dag_id, run_id, ["check"])
    waits_again(airflow, oracle, dag_id, run_id, definition, starts)

    assert airflow.wait_for_run(dag_id, run_id) == "success", airflow.describe_run(dag_id, run_id)
    assert airflow.xcom(dag_id, run_id, "check")["execution_id"] == oracle.started(definition)[-1]
    assert airflow.task_instance(dag_id, run_id, "check").try_number == 2
    return definition


def test_cleared_while_running_cancels_and_starts_again(airflow: AirflowRig, oracle: Oracle) -> None:
    """The executor reports the end of the cleared process, as LocalExecutor does: the task begins a new life."""
    definition = cleared_while_running(airflow, oracle, "in_worker", 2)

    former, _ = oracle.started(definition)
    assert oracle.cancelled(definition) == [former]
    assert oracle.order(definition) == ["start", "cancel", "start"]


@pytest.mark.slow
def test_cleared_while_running_without_state(airflow: AirflowRig, oracle: Oracle) -> None:
    """With durable=False no later try could cancel what the cleared one has started, so that one does."""
    definition = cleared_while_running(airflow, oracle, "in_worker_without_state", 2)

    former, _ = oracle.started(definition)
    assert oracle.cancelled(definition) == [former]
    assert oracle.order(definition) == ["start", "cancel", "start"]


@pytest.mark.parametrize(
    "dag_id", ["in_worker_said_to_fail", pytest.param("in_worker_said_to_fail_late", marks=pytest.mark.slow)]
)
def test_cleared_while_running_and_reported_as_failed(airflow: AirflowRig, oracle: Oracle, dag_id: str) -> None:
    """The executor lost the cleared process, and says so before or after the next try is queued: that one goes on."""
    definition = cleared_while_running(airflow, oracle, dag_id, 1)

    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == []
    lines = (airflow.log_dir / "scheduler.log").read_text().splitlines()
    said_late = any("as failed, late" in line and f"dag_id='{dag_id}'" in line for line in lines)
    assert said_late is dag_id.endswith("late")


def test_cancel_on_kill_false_leaves_the_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """cancel_on_kill=False: a person's stop ends the task, and not the execution."""
    definition = oracle.define("left-alone", like="kyc-slow")
    airflow.wait_for_dag("left_alone")
    run_id = airflow.trigger("left_alone", {"definition": definition})
    airflow.task_process("left_alone", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "left_alone", run_id))

    airflow.set_task_state("left_alone", run_id, "check", "success")
    until(lambda: "left running, as cancel_on_kill=False says" in log_of(airflow, "left_alone", run_id))

    assert oracle.cancelled(definition) == []


@begins("timed_out")
def test_execution_timeout_cancels_deferred_and_in_the_worker(
    airflow: AirflowRig, oracle: Oracle, begun: Begun
) -> None:
    """Airflow's execution_timeout holds in both modes, and its execution is cancelled."""
    assert begun.ends() == "failed"

    started = oracle.started(begun.definition)
    assert len(started) == 2
    assert sorted(oracle.cancelled(begun.definition)) == sorted(started)
    assert {task.state for task in airflow.task_instances("timed_out", begun.run_id).values()} == {"failed"}


@begins("not_durable")
def test_deadline_holds_without_a_ledger(oracle: Oracle, begun: Begun) -> None:
    """durable=False gives up the step's state over retries, not its deadline."""
    assert begun.ends() == "failed"

    assert len(oracle.started(begun.definition)) == 1
    assert oracle.cancelled(begun.definition) == oracle.started(begun.definition)


@begins("tries_failures_again", like="kyc-fail", duration=1)
def test_retry_failed_starts_anew_after_a_failure(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """retry_failed=True: the retry after a failed execution is a new one, once per retry."""
    assert begun.ends() == "failed"

    assert airflow.task_instance("tries_failures_again", begun.run_id, "check").try_number == 2
    assert len(oracle.started(begun.definition)) == 2


@begins("short_deadline")
def test_deadline_while_deferred_cancels_and_is_not_retried(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """The step's deadline holds while the task is deferred: the execution is cancelled, and no retry follows."""
    assert begun.ends() == "failed"

    assert len(oracle.started(begun.definition)) == 1
    assert oracle.cancelled(begun.definition) == oracle.started(begun.definition)
    task = airflow.task_instance("short_deadline", begun.run_id, "check")
    assert (task.state, task.try_number) == ("failed", 1)
    assert "its deadline passed" in log_of(airflow, "short_deadline", begun.run_id)


@begins("deferred", like="kyc-fail")
def test_execution_that_fails_fails_the_task_without_a_retry(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """FAILED is an answer, not an accident: the task fails, names the execution, and is not tried again."""
    assert begun.ends() == "failed"

    assert airflow.task_instance("deferred", begun.run_id, "check").try_number == 1
    (execution_id,) = oracle.started(begun.definition)
    assert f"Execution {execution_id} ended as FAILED" in log_of(airflow, "deferred", begun.run_id)


@begins("short_deadline", like="kyc-approve", duration=1, outcome="ON_HOLD")
def test_unknown_status_is_waited_out_and_never_a_success(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """A status word that nobody taught us is neither an end nor a success, and is not cancelled at the deadline."""
    assert begun.ends() == "failed"

    assert oracle.cancelled(begun.definition) == []
    assert "its status is ON_HOLD" in log_of(airflow, "short_deadline", begun.run_id)


@begins("grace", like="kyc-approve", duration=1)
def test_cleared_step_starts_afresh(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """Clearing a finished task is a person's wish for a new execution; a retry is not."""
    definition, run_id = begun.definition, begun.run_id
    assert begun.ends() == "success"

    airflow.clear("grace", run_id, ["check"])
    until(lambda: len(oracle.started(definition)) == 2)

    assert airflow.wait_for_run("grace", run_id) == "success"
    assert airflow.xcom("grace", run_id, "check")["execution_id"] == oracle.started(definition)[1]


@begins("whole_result", like="kyc-approve", duration=1, result={"decision": "approve"})
def test_whole_result_enters_xcom(airflow: AirflowRig, begun: Begun) -> None:
    """result='full' hands on the whole result."""
    assert begun.ends() == "success"

    assert airflow.xcom("whole_result", begun.run_id, "check")["result"]["decision"] == "approve"


@begins("whole_result", conf={"connection": "no_full_results"})
def test_whole_result_enters_xcom_only_where_the_connection_allows(
    airflow: AirflowRig, oracle: Oracle, begun: Begun
) -> None:
    """Where the connection forbids result='full', nothing is started."""
    assert begun.ends() == "failed"

    assert "forbids result='full'" in log_of(airflow, "whole_result", begun.run_id)
    assert oracle.started(begun.definition) == []


@begins("judged", like="kyc-approve", duration=1)
def test_verdicts_fail_skip_and_fail_closed(airflow: AirflowRig, begun: Begun) -> None:
    """fail_when fails, skip_when skips, and a verdict about a field that is gone fails."""
    begun.ends()

    states = {name: task.state for name, task in airflow.task_instances("judged", begun.run_id).items()}
    assert states == {"fails": "failed", "skips": "skipped", "renamed": "failed"}
    assert "verdict is absent or null" in log_of(airflow, "judged", begun.run_id, "renamed")


@begins("start_then_sense", like="kyc-reject", duration=4)
def test_sensor_waits_for_what_another_task_started(airflow: AirflowRig, oracle: Oracle, begun: Begun) -> None:
    """Fire and forget, then a sensor in either mode: one start, and the sensor returns what the operator would."""
    assert begun.ends() == "success"

    (execution_id,) = oracle.started(begun.definition)
    for task_id in ("sense_poke", "sense_deferred"):
        returned = airflow.xcom("start_then_sense", begun.run_id, task_id)
        assert returned == {"execution_id": execution_id, "status": "SUCCEEDED", "fields": {"decision": "reject"}}
    assert oracle.cancelled(begun.definition) == []


@begins("deferred", like="kyc-approve")
def test_rendered_parameters_show_their_keys_only(airflow: AirflowRig, begun: Begun) -> None:
    """What Airflow stores of rendered parameters is their keys."""
    begun.ends()

    shown = airflow.rendered_fields("deferred", begun.run_id, "check")["parameters"]
    assert shown == {"documentNumber": "***", "firstName": "***"}


@begins("mapped")
def test_rendered_parameters_of_mapped_steps_show_their_keys_only(
    airflow: AirflowRig, oracle: Oracle, begun: Begun
) -> None:
    """The same for ``partial`` and ``expand``."""
    assert begun.ends() == "success", airflow.describe_run("mapped", begun.run_id)

    hidden, many = {"documentNumber": "***", "firstName": "***"}, begun.run_id
    for index in (0, 1):
        partial = airflow.rendered_fields("mapped", many, "by_definition", index)
        expanded = airflow.rendered_fields("mapped", many, "by_parameters", index)
        assert partial["parameters"] == hidden
        assert expanded["parameters"] == {"applicationId": "***"}
    sent = [start["parameters"] for start in oracle.starts() if "applicationId" in start["parameters"]]
    assert {"applicationId": "application-1"} in sent
    assert {"applicationId": "application-2"} in sent


def test_connection_type_is_known_to_airflow(airflow: AirflowRig, oracle: Oracle) -> None:
    """test_connection says what works, and for a wrong token what does not, without showing it."""
    body = {"connection_id": "probe", "conn_type": "transactionlink", "host": oracle.url}

    works, said = airflow.test_connection({**body, "password": "tot_sandbox"})
    fails, complaint = airflow.test_connection({**body, "password": "tot_wrong-9431-canary"})

    assert (works, fails) == (True, False)
    assert "accepts the token" in said
    assert "401" in complaint
    assert "canary" not in complaint
