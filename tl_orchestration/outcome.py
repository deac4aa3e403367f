"""
What an ended execution means for the step that ran it.

Fields and verdicts are JMESPath over the result, and fail closed: a path that is absent, a verdict about a null, a
verdict that is not a boolean raise ResultShapeChanged. A rejected customer must not pass because a field was renamed.
An expression that begins with ``optional:`` is read the ordinary JMESPath way, where absent means null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jmespath
from attrs import field, frozen, validators
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from tl_orchestration.errors import (
    ExecutionCancelled,
    ExecutionExpired,
    ExecutionFailed,
    InvalidRequest,
    ResultShapeChanged,
    TransactionlinkError,
)
from tl_orchestration.models import Execution
from tl_orchestration.status import Status

OPTIONAL = "optional:"

Verdict = Literal["pass", "fail", "skip"]


class _Absent(Exception):
    """A path of the expression leads nowhere."""


_Interpreter: Any = TreeInterpreter  # its stubs name private node types, which an override cannot repeat
_NUMBER = (int, float)


class _StrictInterpreter(_Interpreter):  # type: ignore[misc]
    """
    JMESPath without its null-for-whatever-is-odd: paths have to exist, and comparisons have to compare like with like.
    """

    def __init__(self, *, verdict: bool) -> None:
        super().__init__()
        self._verdict = verdict

    def visit_field(self, node: dict[str, Any], value: Any) -> Any:
        if not isinstance(value, dict) or node["value"] not in value:
            raise _Absent(node["value"])
        return self._something(value[node["value"]], node["value"])

    def visit_index(self, node: dict[str, Any], value: Any) -> Any:
        if not isinstance(value, list) or not -len(value) <= node["value"] < len(value):
            raise _Absent(f"[{node['value']}]")
        return self._something(value[node["value"]], f"[{node['value']}]")

    def visit_comparator(self, node: dict[str, Any], value: Any) -> Any:
        left, right = (self._operand(child, value) for child in node["children"])
        alike = type(left) is type(right) or (_is_number(left) and _is_number(right)) or None in (left, right)
        if not alike:
            raise _Absent("a value of the type that it is compared with")
        return self._read(super().visit_comparator(node, value), "a number to compare")

    def visit_not_expression(self, node: dict[str, Any], value: Any) -> Any:
        if not self._verdict:
            return super().visit_not_expression(node, value)
        return not self._truth(self.visit(node["children"][0], value))

    def visit_and_expression(self, node: dict[str, Any], value: Any) -> Any:
        if not self._verdict:
            return super().visit_and_expression(node, value)
        left, right = node["children"]
        return self._truth(self.visit(left, value)) and self._truth(self.visit(right, value))

    def visit_or_expression(self, node: dict[str, Any], value: Any) -> Any:
        if not self._verdict:
            return super().visit_or_expression(node, value)
        left, right = node["children"]
        return self._truth(self.visit(left, value)) or self._truth(self.visit(right, value))

    def visit_projection(self, node: dict[str, Any], value: Any) -> Any:
        return self._read(super().visit_projection(node, value), "a list")

    def visit_filter_projection(self, node: dict[str, Any], value: Any) -> Any:
        return self._read(super().visit_filter_projection(node, value), "a list")

    def visit_flatten(self, node: dict[str, Any], value: Any) -> Any:
        return self._read(super().visit_flatten(node, value), "a list")

    def visit_slice(self, node: dict[str, Any], value: Any) -> Any:
        return self._read(super().visit_slice(node, value), "a list")

    def visit_value_projection(self, node: dict[str, Any], value: Any) -> Any:
        return self._read(super().visit_value_projection(node, value), "an object")

    def _is_true(self, value: Any) -> Any:
        return self._truth(value) if self._verdict else super()._is_true(value)

    def _truth(self, value: Any) -> bool:
        """
        In a verdict only booleans are true or false: "false" and [] must not decide anything.
        """
        if not isinstance(value, bool):
            raise _Absent("a true or false where the verdict needs one")
        return value

    def _operand(self, node: dict[str, Any], value: Any) -> Any:
        """
        In a verdict null is compared only where it is written out: a null that a function gives has no meaning.
        """
        operand = self.visit(node, value)
        if operand is None and self._verdict and node["type"] != "literal":
            raise _Absent("a value to compare")
        return operand

    def _read(self, value: Any, expected: str) -> Any:
        if value is None:  # what jmespath answers where the types do not fit
            raise _Absent(expected)
        return value

    def _something(self, value: Any, name: str) -> Any:
        if value is None and self._verdict:
            raise _Absent(name)
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool)


@frozen
class Expression:
    """
    One JMESPath expression, compiled.

    Raises:
        InvalidRequest: It is not JMESPath.
    """

    text: str
    optional: bool = field(init=False)
    _parsed: Any = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        text = self.text.strip()
        optional = text.startswith(OPTIONAL)
        try:
            compiled = jmespath.compile(text.removeprefix(OPTIONAL).strip())
        except JMESPathError as error:
            raise InvalidRequest(f"{self.text!r} is not a JMESPath expression ({type(error).__name__}).") from None
        object.__setattr__(self, "optional", optional)
        object.__setattr__(self, "_parsed", compiled.parsed)

    def functions(self) -> frozenset[str]:
        """
        Names of the functions that it calls, at whatever depth.
        """
        found, nodes = set[str](), [self._parsed]
        while nodes:
            node = nodes.pop()
            if node["type"] == "function_expression":
                found.add(node["value"])
            nodes += [child for child in node["children"] if isinstance(child, dict)]  # those of a slice are numbers
        return frozenset(found)

    def value(self, result: Mapping[str, Any], *, what: str, verdict: bool = False) -> Any:
        """
        What the expression finds in the result.

        Raises:
            ResultShapeChanged: A path is absent, or the expression does not fit the types that it meets.
        """
        interpreter = TreeInterpreter() if self.optional else _StrictInterpreter(verdict=verdict)
        try:
            return interpreter.visit(self._parsed, dict(result))
        except _Absent as absent:
            why = f"{absent} is absent{' or null' if verdict else ''}"
        except (JMESPathError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
            why = f"it does not fit the result ({type(error).__name__})"
        raise self._refusal(what, why)  # out here, because jmespath's own errors quote the result

    def holds(self, result: Mapping[str, Any], *, what: str) -> bool:
        """
        The expression as a verdict.

        Raises:
            ResultShapeChanged: It is not a boolean, or cannot be read.
        """
        value = self.value(result, what=what, verdict=True)
        if value is None and self.optional:
            return False
        if not isinstance(value, bool):
            raise self._refusal(what, f"it gives a {type(value).__name__} instead of true or false")
        return value

    def _refusal(self, what: str, why: str) -> ResultShapeChanged:
        return ResultShapeChanged(
            f"{what} ({self.text}) cannot be read from the result: {why}. Check the workflow's revision; if the"
            f" path may be absent, write '{OPTIONAL} …'."
        )


def _fields(value: Mapping[str, str] | None) -> Mapping[str, Expression]:
    if not all(isinstance(path, str) for path in (value or {}).values()):
        raise InvalidRequest("result_fields must map names to JMESPath expressions.")
    return {str(name): Expression(path) for name, path in (value or {}).items()}


def _verdict(value: str | None) -> Expression | None:
    return None if value is None else Expression(value)


@frozen(kw_only=True)
class OutcomeRules:
    """
    How a step judges an ended execution.

    Args:
        result_fields: Name -> JMESPath: what of the result goes on to the next step.
        fail_when: JMESPath; true fails the step.
        skip_when: JMESPath; true skips what comes next.
        on_partial: Whether PARTIAL is a failure or a success.

    Raises:
        InvalidRequest: An expression is not JMESPath.
    """

    result_fields: Mapping[str, Expression] = field(default=None, converter=_fields)
    fail_when: Expression | None = field(default=None, converter=_verdict)
    skip_when: Expression | None = field(default=None, converter=_verdict)
    on_partial: Literal["fail", "accept"] = field(default="fail", validator=validators.in_(("fail", "accept")))

    @property
    def need_result(self) -> bool:
        return bool(self.result_fields) or self.fail_when is not None or self.skip_when is not None

    def check_ending(self, execution: Execution) -> None:
        """
        Return if the execution has succeeded.

        Raises:
            ExecutionFailed, ExecutionCancelled, ExecutionExpired: By its status. A status that is not terminal, and
                one that is not known, is never taken for a success.
        """
        if execution.status is Status.SUCCEEDED:
            return
        if execution.status is Status.PARTIAL and self.on_partial == "accept":
            return
        kinds: Mapping[Status, type[TransactionlinkError]] = {
            Status.CANCELLED: ExecutionCancelled,
            Status.EXPIRED: ExecutionExpired,
        }
        raise kinds.get(execution.status, ExecutionFailed)(
            f"Execution {execution.id} ended as {execution.status} ({execution.raw_status})."
            " Look it up in the vendor's dashboard.",
            execution_id=execution.id,
        )

    def fields(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """
        The named fields.

        Raises:
            ResultShapeChanged: One cannot be read.
        """
        return {
            name: expression.value(result, what=f"result_fields[{name!r}]")
            for name, expression in self.result_fields.items()
        }

    def verdict(self, result: Mapping[str, Any]) -> Verdict:
        """
        What the rules say about the result; failing comes before skipping.

        Raises:
            ResultShapeChanged: A verdict cannot be read.
        """
        if self.fail_when is not None and self.fail_when.holds(result, what="fail_when"):
            return "fail"
        if self.skip_when is not None and self.skip_when.holds(result, what="skip_when"):
            return "skip"
        return "pass"
