"""
Durations on the command line: ``90s``, ``10m``, ``2h``, ``1d``, or plain seconds.
"""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)", re.ASCII)


def duration(text: str) -> float:
    """
    The seconds that a duration stands for.

    Raises:
        click.BadParameter: It stands for none.
    """
    match = _FORM.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise click.BadParameter("a duration is a number above zero with s, m, h or d: 90s, 10m, 2h, 1d")
    return seconds
