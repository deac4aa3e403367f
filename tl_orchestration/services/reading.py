"""
Reading members of an answer that may be absent or of the wrong type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tl_orchestration.errors import InvalidAnswer
from tl_orchestration.exchange import Request, Response
from tl_orchestration.models import Execution
from tl_orchestration.secret import Secret

_LONGEST_LITERAL = 64


def text(document: Mapping[str, Any], name: str) -> str | None:
    """
    A member that is text and not empty; else None.
    """
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def secret(document: Mapping[str, Any], name: str) -> Secret | None:
    """
    The same, wrapped so that it cannot be printed.
    """
    value = text(document, name)
    return Secret(value) if value else None


def status_literal(document: Mapping[str, Any], identifier: str, response: Response, request: Request) -> str:
    """
    The service's word for where the execution stands. Empty in a start's answer that has none: the id is what a start
    must not lose, and the first poll tells the status.

    Raises:
        InvalidAnswer: Another answer has none.
    """
    literal = text(document, "status") or ""
    if not literal.strip() or len(literal) > _LONGEST_LITERAL or not literal.isprintable():
        literal = ""
    if not literal and request.operation != "run":
        raise InvalidAnswer(
            f"The service answered {request.operation} of execution {identifier} without a usable status.",
            execution_id=identifier,
            status_code=response.status,
        )
    return literal


def same_execution(execution: Execution, execution_id: str, response: Response) -> Execution:
    """
    The execution, if it is the one that was asked about.

    Raises:
        InvalidAnswer: It is another one.
    """
    if execution.id != execution_id:
        raise InvalidAnswer(
            f"The service answered the poll of execution {execution_id} with another execution.",
            execution_id=execution_id,
            status_code=response.status,
        )
    return execution


def in_workspace(execution: Execution, workspace_id: str | None, response: Response) -> Execution:
    """
    The started execution, if it is where this connection is meant to start.

    Raises:
        InvalidAnswer: It is in another workspace (B3OS: organization).
    """
    if workspace_id and execution.workspace_id and execution.workspace_id.lower() != workspace_id.lower():
        raise InvalidAnswer(
            f"Execution {execution.id} was started in workspace {execution.workspace_id}, but this connection is"
            f" set to workspace {workspace_id}.",
            execution_id=execution.id,
            status_code=response.status,
        )
    return execution
