"""
A step on a real Airflow: what it returns, what it survives, what it says when it cannot work.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.canary import CANARIES, TOKEN
from tests.e2e.traces import traces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dev.airflow_rig import AirflowRig
    from tests.rig import Oracle

pytestmark = pytest.mark.timeout(180)


def run(airflow: AirflowRig, dag_id: str, **conf: str) -> tuple[str, str]:
    airflow.wait_for_dag(dag_id)
    run_id = airflow.trigger(dag_id, conf)
    return run_id, airflow.wait_for_run(dag_id, run_id, timeout=90)


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    ends = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < ends, "the condition was not met in time"
        time.sleep(0.1)
    return met


def log_of(airflow: AirflowRig, dag_id: str, run_id: str, task_id: str = "check", tries: int = 1) -> str:
    return "\n".join(airflow.task_log(dag_id, run_id, task_id, number) for number in range(1, tries + 1))


@pytest.mark.parametrize(("like", "decision", "risk"), [("kyc-approve", "approve", 12), ("kyc-reject", "reject", 87)])
def test_deferred_step_returns_the_decision(
    airflow: AirflowRig, oracle: Oracle, like: str, decision: str, risk: int
) -> None:
    """A deferred step ends with its execution and hands on what result_fields names, with one commit."""
    definition = oracle.define(f"deferred-{decision}", like=like, duration=2)

    run_id, state = run(airflow, "deferred", definition=definition)

    returned = airflow.xcom("deferred", run_id, "check")
    assert state == "success"
    assert oracle.started(definition) == [returned["execution_id"]]
    assert returned == {
        "execution_id": returned["execution_id"],
        "status": "SUCCEEDED",
        "fields": {"decision": decision, "risk": risk},
    }
    assert "Pausing task as DEFERRED" in log_of(airflow, "deferred", run_id)
    link = airflow.extra_links("deferred", run_id, "check")["Transactionlink execution"]
    assert link == f"{oracle.url}/executions/{returned['execution_id']}"


def test_fast_execution_never_defers(airflow: AirflowRig, oracle: Oracle) -> None:
    """An execution that ends within defer_after is waited for in the worker."""
    definition = oracle.define("fast", like="kyc-approve", duration=1)

    run_id, state = run(airflow, "grace", definition=definition)

    assert state == "success"
    assert len(oracle.started(definition)) == 1
    assert "DEFERRED" not in log_of(airflow, "grace", run_id)


@pytest.mark.parametrize(
    ("conf", "sentence"),
    [
        ({"connection": "wrong_token"}, "does not accept the credential (401)"),
        ({"connection": "may_not_run"}, "lacks the permission can_run"),
        ({"definition": "no-such-definition"}, "does not know workflow definition no-such-definition (404)"),
        ({"connection": "wrong_kind"}, "is of type 'http', not 'transactionlink'"),
        ({"connection": "no_such_connection"}, "There is no connection 'no_such_connection'"),
        ({"connection": "foreign_host"}, "The host example.org is not on the allow-list"),
    ],
    ids=["token", "permission", "definition", "kind", "undefined", "host"],
)
def test_what_no_retry_can_mend_fails_at_once(
    airflow: AirflowRig, oracle: Oracle, conf: Mapping[str, str], sentence: str
) -> None:
    """A mistake that a retry cannot mend ends the task in its first try, with one sentence and nothing started."""
    before = len(oracle.starts())

    run_id, state = run(airflow, "deferred", **conf)

    task = airflow.task_instance("deferred", run_id, "check")
    log = log_of(airflow, "deferred", run_id)
    assert (state, task.state, task.try_number) == ("failed", "failed", 1)
    assert len(oracle.starts()) == before
    assert sentence in log
    assert "tot_wrong" not in log
    assert not [canary for canary in CANARIES if canary in log]


def test_unreachable_host_is_tried_again_and_starts_nothing(airflow: AirflowRig, oracle: Oracle) -> None:
    """A service that cannot be reached may be back at the next try: the task says so and is retried."""
    airflow.wait_for_dag("deferred")
    run_id = airflow.trigger("deferred", {"connection": "unreachable"})

    airflow.wait_for_run("deferred", run_id, timeout=120)

    task = airflow.task_instance("deferred", run_id, "check")
    log = log_of(airflow, "deferred", run_id)
    assert (task.state, task.try_number) == ("failed", 3)
    assert "could not be reached" in log
    assert "Nothing was sent" in log


def test_parameters_that_are_not_json_are_named_before_anything_is_sent(airflow: AirflowRig, oracle: Oracle) -> None:
    """A parameter that JSON cannot hold is named by its path, and nothing is sent."""
    before = len(oracle.starts())

    run_id, state = run(airflow, "bad_parameters")

    assert state == "failed"
    assert "parameters.when is a set, which JSON cannot hold" in log_of(airflow, "bad_parameters", run_id)
    assert airflow.task_instance("bad_parameters", run_id, "check").try_number == 1
    assert len(oracle.starts()) == before


def test_killed_between_start_and_defer_goes_on_with_the_same_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL of the task after the start: the retry waits for what was started, and nothing starts twice."""
    definition = oracle.define("killed", like="kyc-approve", duration=8)
    airflow.wait_for_dag("grace")
    run_id = airflow.trigger("grace", {"definition": definition})
    pid = airflow.task_process("grace", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "grace", run_id))

    os.kill(pid, signal.SIGKILL)

    assert airflow.wait_for_run("grace", run_id, timeout=90) == "success"
    assert airflow.task_instance("grace", run_id, "check").try_number == 2
    assert oracle.started(definition) == [airflow.xcom("grace", run_id, "check")["execution_id"]]
    assert oracle.cancelled(definition) == []


def test_killed_during_the_start_never_starts_again(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGKILL while the answer of the start is under way: the retry says what to look for, and stops."""
    definition = oracle.define("lost", like="kyc-approve", duration=1)
    oracle.fault(on="start", definition=definition, kind="hold", seconds=20)
    airflow.wait_for_dag("grace")
    run_id = airflow.trigger("grace", {"definition": definition})
    pid = airflow.task_process("grace", run_id, "check")
    until(lambda: oracle.started(definition))

    os.kill(pid, signal.SIGKILL)

    assert airflow.wait_for_run("grace", run_id, timeout=90) == "failed"
    task = airflow.task_instance("grace", run_id, "check")
    assert task.try_number == 2
    log = log_of(airflow, "grace", run_id, tries=2)
    assert "may or may not have started" in log
    (start,) = [start for start in oracle.starts() if start["definition"] == definition]
    assert f"Look for caseRef = {start['parameters']['caseRef']} among the executions' parameters" in log


def test_marked_failed_while_running_cancels_the_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """A person who marks the running task failed cancels its execution, and the task never ends in success."""
    definition = oracle.define("stopped", like="kyc-slow")
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    airflow.task_process("in_worker", run_id, "check")
    execution_id = until(lambda: oracle.started(definition))[0]

    airflow.set_task_state("in_worker", run_id, "check", "failed")

    assert until(lambda: oracle.cancelled(definition)) == [execution_id]
    assert airflow.task_instance("in_worker", run_id, "check").state == "failed"


def test_signal_without_a_decision_leaves_the_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """SIGTERM alone is no decision: nothing is cancelled, and the next try goes on waiting."""
    definition = oracle.define("signalled", like="kyc-approve", duration=8)
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    pid = airflow.task_process("in_worker", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "in_worker", run_id))

    os.kill(pid, signal.SIGTERM)

    assert airflow.wait_for_run("in_worker", run_id, timeout=90) == "success"
    assert airflow.task_instance("in_worker", run_id, "check").try_number == 2
    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == []


def test_stopped_during_the_start_cancels_what_was_started(airflow: AirflowRig, oracle: Oracle) -> None:
    """Marked failed while the start is under way: the start is not cut off, and what it started is cancelled."""
    definition = oracle.define("stopped-early", like="kyc-slow")
    oracle.fault(on="start", definition=definition, kind="hold", seconds=3)
    airflow.wait_for_dag("deferred")
    run_id = airflow.trigger("deferred", {"definition": definition})
    airflow.task_process("deferred", run_id, "check")
    execution_id = until(lambda: oracle.started(definition))[0]

    airflow.set_task_state("deferred", run_id, "check", "failed")

    assert until(lambda: oracle.cancelled(definition)) == [execution_id]
    assert airflow.task_instance("deferred", run_id, "check").state == "failed"


def test_cleared_while_running_leaves_one_execution(airflow: AirflowRig, oracle: Oracle) -> None:
    """After a clear of the running task, the task ends with one execution, and any former one is cancelled."""
    definition = oracle.define("cleared-running", like="kyc-approve", duration=10)
    airflow.wait_for_dag("in_worker")
    run_id = airflow.trigger("in_worker", {"definition": definition})
    airflow.task_process("in_worker", run_id, "check")
    until(lambda: "Started execution" in log_of(airflow, "in_worker", run_id))

    airflow.clear("in_worker", run_id, ["check"])
    until(lambda: airflow.task_instance("in_worker", run_id, "check").try_number == 2)

    assert airflow.wait_for_run("in_worker", run_id, timeout=90) == "success"
    *former, last = oracle.started(definition)
    assert airflow.xcom("in_worker", run_id, "check")["execution_id"] == last
    # Whether Airflow counts this as a new life of the task depends on how its executor reports the old process.
    assert oracle.cancelled(definition) == former
    assert len(former) <= 1


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


def test_execution_timeout_cancels_deferred_and_in_the_worker(airflow: AirflowRig, oracle: Oracle) -> None:
    """Airflow's execution_timeout holds in both modes, and its execution is cancelled."""
    definition = oracle.define("timed-out", like="kyc-slow")

    run_id, state = run(airflow, "timed_out", definition=definition)

    assert state == "failed"
    assert len(oracle.started(definition)) == 2
    assert sorted(oracle.cancelled(definition)) == sorted(oracle.started(definition))
    assert {task.state for task in airflow.task_instances("timed_out", run_id).values()} == {"failed"}


def test_deadline_holds_without_a_ledger(airflow: AirflowRig, oracle: Oracle) -> None:
    """durable=False gives up the step's state over retries, not its deadline."""
    definition = oracle.define("not-durable", like="kyc-slow")

    _, state = run(airflow, "not_durable", definition=definition)

    assert state == "failed"
    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == oracle.started(definition)


def test_retry_failed_starts_anew_after_a_failure(airflow: AirflowRig, oracle: Oracle) -> None:
    """retry_failed=True: the retry after a failed execution is a new one, once per retry."""
    definition = oracle.define("tried-again", like="kyc-fail", duration=1)

    run_id, state = run(airflow, "tries_failures_again", definition=definition)

    assert (state, airflow.task_instance("tries_failures_again", run_id, "check").try_number) == ("failed", 2)
    assert len(oracle.started(definition)) == 2


def test_deadline_while_deferred_cancels_and_is_not_retried(airflow: AirflowRig, oracle: Oracle) -> None:
    """The step's deadline holds while the task is deferred: the execution is cancelled, and no retry follows."""
    definition = oracle.define("late", like="kyc-slow")

    run_id, state = run(airflow, "short_deadline", definition=definition)

    assert state == "failed"
    assert len(oracle.started(definition)) == 1
    assert oracle.cancelled(definition) == oracle.started(definition)
    assert airflow.task_instance("short_deadline", run_id, "check").try_number == 1
    assert "its deadline passed" in log_of(airflow, "short_deadline", run_id)


def test_execution_that_fails_fails_the_task_without_a_retry(airflow: AirflowRig, oracle: Oracle) -> None:
    """FAILED is an answer, not an accident: the task fails, names the execution, and is not tried again."""
    definition = oracle.define("fails", like="kyc-fail")

    run_id, state = run(airflow, "deferred", definition=definition)

    assert (state, airflow.task_instance("deferred", run_id, "check").try_number) == ("failed", 1)
    assert f"Execution {oracle.started(definition)[0]} ended as FAILED" in log_of(airflow, "deferred", run_id)


def test_unknown_status_is_waited_out_and_never_a_success(airflow: AirflowRig, oracle: Oracle) -> None:
    """A status word that nobody taught us is neither an end nor a success, and is not cancelled at the deadline."""
    definition = oracle.define("odd", like="kyc-approve", duration=1, outcome="ON_HOLD")

    run_id, state = run(airflow, "short_deadline", definition=definition)

    assert state == "failed"
    assert oracle.cancelled(definition) == []
    assert "its status is ON_HOLD" in log_of(airflow, "short_deadline", run_id)


def test_cleared_step_starts_afresh(airflow: AirflowRig, oracle: Oracle) -> None:
    """Clearing a finished task is a person's wish for a new execution; a retry is not."""
    definition = oracle.define("cleared", like="kyc-approve", duration=1)
    run_id, _ = run(airflow, "grace", definition=definition)

    airflow.clear("grace", run_id, ["check"])
    until(lambda: len(oracle.started(definition)) == 2)

    assert airflow.wait_for_run("grace", run_id, timeout=60) == "success"
    assert airflow.xcom("grace", run_id, "check")["execution_id"] == oracle.started(definition)[1]


def test_whole_result_enters_xcom_only_where_the_connection_allows(airflow: AirflowRig, oracle: Oracle) -> None:
    """result='full' hands on the whole result, unless the connection forbids it; then nothing is started."""
    definition = oracle.define("whole", like="kyc-approve", duration=1, result={"decision": "approve"})

    allowed, state = run(airflow, "whole_result", definition=definition)
    refused, refused_state = run(airflow, "whole_result", definition=definition, connection="no_full_results")

    assert (state, refused_state) == ("success", "failed")
    assert airflow.xcom("whole_result", allowed, "check")["result"]["decision"] == "approve"
    assert "forbids result='full'" in log_of(airflow, "whole_result", refused)
    assert len(oracle.started(definition)) == 1


def test_verdicts_fail_skip_and_fail_closed(airflow: AirflowRig, oracle: Oracle) -> None:
    """fail_when fails, skip_when skips, and a verdict about a field that is gone fails."""
    definition = oracle.define("judged", like="kyc-approve", duration=1)

    run_id, _ = run(airflow, "judged", definition=definition)

    states = {name: task.state for name, task in airflow.task_instances("judged", run_id).items()}
    assert states == {"fails": "failed", "skips": "skipped", "renamed": "failed"}
    assert "verdict is absent or null" in log_of(airflow, "judged", run_id, "renamed")


def test_sensor_waits_for_what_another_task_started(airflow: AirflowRig, oracle: Oracle) -> None:
    """Fire and forget, then a sensor in either mode: one start, and the sensor returns what the operator would."""
    definition = oracle.define("sensed", like="kyc-reject", duration=4)

    run_id, state = run(airflow, "start_then_sense", definition=definition)

    assert state == "success"
    execution_id = oracle.started(definition)[0]
    for task_id in ("sense_poke", "sense_deferred"):
        returned = airflow.xcom("start_then_sense", run_id, task_id)
        assert returned == {"execution_id": execution_id, "status": "SUCCEEDED", "fields": {"decision": "reject"}}
    assert oracle.cancelled(definition) == []


def test_rendered_parameters_show_their_keys_only(airflow: AirflowRig, oracle: Oracle) -> None:
    """What Airflow stores of rendered parameters is their keys: plain, partial and expanded."""
    plain, _ = run(airflow, "deferred", definition=oracle.define("plain", like="kyc-approve"))
    many, state = run(airflow, "mapped")

    hidden = {"documentNumber": "***", "firstName": "***"}
    assert state == "success"
    assert airflow.rendered_fields("deferred", plain, "check")["parameters"] == hidden
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


def test_no_personal_data_and_no_token_stay_in_airflow(airflow: AirflowRig, oracle: Oracle) -> None:
    """After all of the above: no table, no archive and no log of Airflow holds a planted value."""
    definition = oracle.define("canary", like="kyc-slow")
    airflow.wait_for_dag("deferred")
    run_id = airflow.trigger("deferred", {"definition": definition})
    airflow.wait_for_task("deferred", run_id, "check", {"deferred"}, timeout=60)
    assert any(CANARIES[0] in str(start["parameters"]) for start in oracle.starts())
    # The connections come from the environment, so the token may be in no table; 401s have named a wrong one.
    planted = (*CANARIES, TOKEN, "tot_wrong")

    found = traces(airflow, planted)

    airflow.set_task_state("deferred", run_id, "check", "failed")
    assert found == []
