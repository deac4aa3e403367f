"""Finding what a B3OS request names, and what it is about."""

from starlette.requests import Request

from tl_orchestration.sandbox.answers import RefusedError
from tl_orchestration.sandbox.b3os.book import Run, Session
from tl_orchestration.sandbox.endpoints import Subject, member_of_body
from tl_orchestration.sandbox.executions import Execution
from tl_orchestration.sandbox.services import B3OS
from tl_orchestration.sandbox.store import Store
from tl_orchestration.sandbox.words import has_run


class Finder:
    """
    Finds executions and runs by the id in a request's path.

    Args:
        store: where to look.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def execution(self, execution_id: str) -> tuple[Execution, Session]:
        """An execution that has a session. Raises `RefusedError`, 404 or as the variant says."""
        session = self._store.b3os.session(execution_id)
        if session is None:
            status = self._store.variants["unknown_execution"]
            raise RefusedError(status, "NOT_FOUND", f"Execution {execution_id} not found")
        return self._store.find(execution_id), session

    def run(self, run_id: str) -> tuple[Run, Execution]:
        """A run; an execution that waits to be run has none yet. Raises `RefusedError`, 404."""
        run = self._store.b3os.run(run_id)
        if run is not None:
            execution = self._store.find(run.execution_id)
            if has_run(execution.status_at(self._store.clock.now())):
                return run, execution
        raise RefusedError(404, "NOT_FOUND", f"Run {run_id} not found")

    async def subject_of_execution(self, request: Request) -> Subject:
        """The execution in the path, for faults."""
        session = self._store.b3os.session(request.path_params["id"])
        return Subject(B3OS, None if session is None else self._store.find(session.execution_id).definition_name)

    async def subject_of_run(self, request: Request) -> Subject:
        """The run in the path, for faults."""
        run = self._store.b3os.run(request.path_params["id"])
        return Subject(B3OS, None if run is None else self._store.find(run.execution_id).definition_name)

    async def subject_of_workflow(self, request: Request) -> Subject:
        """The workflow in the path or body, for faults."""
        return Subject(B3OS, request.path_params.get("id") or await member_of_body(request, "workflowId"))
