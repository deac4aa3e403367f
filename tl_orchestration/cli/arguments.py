"""
A command whose complaints do not repeat what was typed.
"""

from __future__ import annotations

import click


class Command(click.Command):
    """
    Refuses surplus arguments without quoting them: they may be values that do not belong there.
    """

    allow_extra_args = True

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise click.UsageError("There are more arguments than this command takes.", ctx)
        return rest
