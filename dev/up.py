"""
``make up``: sandbox and Airflow, left running in the foreground until Ctrl-C.

The database and all logs are kept in ``.up`` in the project folder, so that runs are still there the next time.
"""

from __future__ import annotations

import fcntl
import sys
import time
from typing import NoReturn

from dev.airflow_rig import AirflowRig
from dev.http_service import ServiceError, ServiceTimeoutError
from dev.services import free_port
from dev.stack import DAG_ID, DAGS, ROOT, TOKEN, Console, connections, deliver_to, end_on_signals, webhooks_into

STATE = ROOT / ".up"
SANDBOX_PORT = 8321
AIRFLOW_PORT = 8080

GUIDE = """
  Airflow            {airflow}
                     no log in; DAG {dag}, button Trigger; workflow_definition_id is kyc-approve or kyc-reject
                     DAG files are read from {dags}; a change is seen within about a second
  Sandbox            {sandbox}
                     its token is {token}; what it was asked to start: {sandbox}/_sandbox/starts
  From a shell       TOKEN=$(curl -s {airflow}/auth/token | {python} -c 'import json,sys; print(json.load(sys.stdin)["access_token"])')
                     curl -s -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
                       -d '{{"logical_date": null, "conf": {{"workflow_definition_id": "kyc-reject"}}}}' \\
                       {airflow}/api/v2/dags/{dag}/dagRuns
  Logs               {logs}

  Ctrl-C stops everything.
"""  # noqa: E501 - lines to be copied whole


def serve(console: Console) -> NoReturn:
    """
    Start both, tell where they are, and wait for Ctrl-C or for a process of Airflow to die: either raises.
    """
    from tl_orchestration.sandbox import SandboxServer

    with SandboxServer(port=free_port(SANDBOX_PORT)) as sandbox:
        console.say("sandbox", f"is ready at {sandbox.url}")
        port = free_port(AIRFLOW_PORT)
        env = webhooks_into(STATE / "inbox.db", sandbox.url)
        rig = AirflowRig(STATE / "airflow", DAGS, port=port, connections=connections(sandbox.url), env=env)
        try:
            console.say("airflow", f"{rig.version} is starting")
            rig.start()
            deliver_to(rig.base_url, sandbox.url)
            console.say("airflow", f"is ready at {rig.base_url}")
            try:
                rig.wait_for_dag(DAG_ID)
            except ServiceTimeoutError as error:  # its author may be about to repair it
                console.say("airflow", str(error))
            places = {"airflow": rig.base_url, "sandbox": sandbox.url, "dags": DAGS, "logs": rig.log_dir}
            print(GUIDE.format(**places, dag=DAG_ID, token=TOKEN, python=sys.executable), flush=True)
            while True:
                rig.check()
                time.sleep(1)
        finally:
            console.say("everything", "is being stopped")
            rig.stop()


def main() -> int:
    """
    Keep the services running until told to stop; one set of them at a time.

    Returns:
        Exit code.
    """
    console = Console()
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"Another `make up` is using {STATE}. Stop it first.", file=sys.stderr)
            return 1
        end_on_signals()
        try:
            serve(console)
        except KeyboardInterrupt:
            console.say("everything", "is stopped")
            return 0
        except (ServiceError, OSError) as error:
            print(f"FAILED. {error}", file=sys.stderr)
            return 1


if __name__ == "__main__":
    sys.exit(main())
