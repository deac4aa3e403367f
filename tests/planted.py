"""
Values that must never be seen again, once they were given to the product.

Each is unlikely by chance, so that finding one anywhere is a leak.
"""

from __future__ import annotations

from typing import Any

TOKEN = "tot_PLANTED-7c1f0e55b2"
FIRST_NAME = "Zephyrinchen"
LAST_NAME = "Quarkowski-Ünal"
DOCUMENT_NUMBER = "XK4711QZ9"
BIRTH_YEAR = 19_370_614
PROXY_PASSWORD = "PLANTED-proxy-9a3d"

#: Parameters as a KYC check has them.
PARAMETERS: dict[str, Any] = {
    "firstName": FIRST_NAME,
    "lastName": LAST_NAME,
    "document": {"number": DOCUMENT_NUMBER, "issued": [BIRTH_YEAR]},
}

#: What is searched for: words of a value count as much as the whole.
PERSONAL = (FIRST_NAME, "Quarkowski", DOCUMENT_NUMBER, str(BIRTH_YEAR))
EVERYTHING = (TOKEN, "7c1f0e55b2", PROXY_PASSWORD, *PERSONAL)


def found_in(text: str, planted: tuple[str, ...] = EVERYTHING) -> list[str]:
    """
    The planted values that are in the text, in whatever letter case.
    """
    folded = text.casefold()
    return [value for value in planted if value.casefold() in folded]
