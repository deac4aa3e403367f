"""
What a command prints: its answer on stdout, everything else on stderr.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from tl_orchestration.models import Execution

_UNUSUAL = re.compile(r"[^\n -~]")
_LABEL_WIDTH = 12


def printable(text: str) -> str:
    """
    The text on one line, without characters that could steer a terminal: some of it came from the service.
    """
    return "".join(character if character.isprintable() else "?" for character in text)


def json_text(document: Mapping[str, Any], indent: int | None = None, encoding: str | None = "utf-8") -> str:
    """
    JSON for people and machines: readable letters where the encoding has them, no control characters anywhere.
    """
    if (encoding or "").lower().replace("-", "") != "utf8":
        return json.dumps(document, indent=indent)
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return _UNUSUAL.sub(lambda match: match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1], text)


def answer_json(document: Mapping[str, Any], indent: int | None = None) -> None:
    """
    Print the answer as one JSON object.
    """
    click.echo(json_text(document, indent, getattr(sys.stdout, "encoding", None)))


def answer_lines(lines: Iterable[tuple[str, str | None]]) -> None:
    """
    Print label and value, one pair a line, without the pairs that have no value.
    """
    for label, value in lines:
        if value:
            click.echo(f"{label:<{_LABEL_WIDTH}}{printable(value)}")
    sys.stdout.flush()


def tell(sentence: str) -> None:
    """
    Tell the person something beside the answer.
    """
    click.echo(printable(sentence), err=True)


def execution_json(execution: Execution) -> dict[str, Any]:
    """
    An execution as JSON values, without what grants access.
    """
    return {
        "id": execution.id,
        "status": execution.status.value,
        "raw_status": execution.raw_status,
        "ended": execution.is_terminal,
        "service": execution.service,
        "workflow_definition_id": execution.workflow_definition_id,
        "name": execution.name,
        "revision": execution.revision,
        "workspace_id": execution.workspace_id,
        "record_id": execution.record_id,
        "expires_at": execution.expires_at.isoformat() if execution.expires_at else None,
    }


def identity_lines(execution: Execution) -> list[tuple[str, str | None]]:
    """
    What does not change about an execution.
    """
    definition = execution.workflow_definition_id
    if definition and execution.revision:
        definition = f"{definition} (revision {execution.revision})"
    expires = execution.expires_at.isoformat(timespec="seconds") if execution.expires_at else None
    return [("execution", execution.id), ("definition", definition), ("expires", expires)]


def status_text(execution: Execution) -> str:
    """
    The status, and the service's own word where that is another.
    """
    raw = execution.raw_status
    return execution.status.value if raw in {"", execution.status.value} else f"{execution.status} ({raw})"
