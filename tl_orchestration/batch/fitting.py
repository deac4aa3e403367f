"""
Whether a book can be run at a service: said of the book before a row is read, and of each row before anything is sent.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import fields, frozen

from tl_orchestration.batch.policy import Book
from tl_orchestration.errors import InvalidRequest, InvalidSettings
from tl_orchestration.models import SHORTEST_EXPIRY, RunRequest
from tl_orchestration.options import options_for

if TYPE_CHECKING:
    from tl_orchestration.services.service import Service

_SOME_RECORD = str(uuid.UUID(int=0))


@frozen(kw_only=True)
class FittedBook(Book):
    """
    A book whose requests its service has seen, and takes.
    """

    service: Service

    def request_of(self, record: Mapping[str, Any]) -> RunRequest:
        """
        As the book's; what the service does not take is a bad row as well.
        """
        definition, accepts = self.workflow_definition_id, self.service.for_request
        return self.columns.request_of(record, definition, self.options, accepts)


def fitted(book: Book, service: Service) -> FittedBook:
    """
    The book as a service takes it, with the options that the columns lie over.

    Raises:
        InvalidSettings: Its options are another service's, or missing; or a column is for what this service does not
            have.
    """
    columns = book.columns
    try:
        options = options_for(service.name, book.options, "options")
        if columns.options and options is None:
            options = options_for(service.name, {}, "options")
        known = [] if options is None else [attribute.name for attribute in fields(type(options))]
        if unknown := sorted(set(columns.options) - set(known)):
            raise InvalidRequest(
                f"options of the service {service.name} have no {', '.join(unknown)}; known are: {', '.join(known)}."
            )
        service.for_request(
            RunRequest(
                book.workflow_definition_id,
                expires_in=None if columns.expires_in is None else SHORTEST_EXPIRY,
                record_id=None if columns.record_id is None else _SOME_RECORD,
                options=options,
            )
        )
    except InvalidRequest as error:
        raise InvalidSettings(f"The book cannot be run: {error.message}") from None
    return FittedBook(
        workflow_definition_id=book.workflow_definition_id,
        source=book.source,
        columns=columns,
        options=options,
        service=service,
    )


__all__ = ["FittedBook", "fitted"]
