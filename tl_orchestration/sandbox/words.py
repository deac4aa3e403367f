"""How each service spells the sandbox's own statuses; a word that is none of them is told as it is."""

from collections.abc import Mapping

from tl_orchestration.sandbox.definitions import BEFORE_RUN
from tl_orchestration.sandbox.variants import Variants

_TRANSACTIONLINK = {
    "RUNNING": "running_word",
    "COMPLETED": "completed_word",
    # The API is not known to have a word for a partly good outcome.
    "PARTIAL": "completed_word",
    "FAILED": "failed_word",
    "CANCELLED": "cancelled_word",
    "EXPIRED": "expired_word",
}

_EXECUTION = {
    "RUNNING": "workflow_running",
    "AWAITING": "workflow_waiting",
    "WAITING": "workflow_waiting",
    "COMPLETED": "workflow_succeeded",
    "FAILED": "workflow_failed",
    # An execution of B3OS is not known to expire.
    "EXPIRED": "workflow_failed",
    "CANCELLED": "workflow_cancelled",
}

_RUN = {"workflow_succeeded": "success", "workflow_failed": "failure"}

_OWN: Mapping[str, str] = {
    "workflow_running": "RUNNING",
    "workflow_waiting": "WAITING",
    "workflow_succeeded": "COMPLETED",
    "workflow_partial": "PARTIAL",
    "workflow_failed": "FAILED",
    "workflow_cancelled": "CANCELLED",
}


def transactionlink_word(status: str, variants: Variants) -> str:
    """A status in the words of both Transactionlink APIs."""
    if status not in _TRANSACTIONLINK:
        return status
    word = str(variants[_TRANSACTIONLINK[status]])
    return word.lower() if variants["status_case"] == "lower" else word


def execution_word(status: str, variants: Variants) -> str:
    """A status in the words of a B3OS execution."""
    if status == "PARTIAL":
        return f"workflow_{variants['partial_word']}"
    return _EXECUTION.get(status, status)


def run_word(status: str, variants: Variants) -> str:
    """A status in the words of a B3OS run."""
    word = execution_word(status, variants)
    return _RUN.get(word, word.removeprefix("workflow_"))


def own_word(word: str) -> str:
    """The sandbox's own status for a word of a B3OS execution."""
    return _OWN.get(word, word)


def has_run(status: str) -> bool:
    """Whether a B3OS execution with this status has a run."""
    return status not in BEFORE_RUN
