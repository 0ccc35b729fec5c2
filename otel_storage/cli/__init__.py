"""The command ``otel-storage``.

Data goes to stdout, words go to stderr. Exit codes: 0 all is well, 1 something was found wrong (an unknown run, an
unreachable database, a schema of another version, spans that still wait), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import IO, Any

import click

from otel_storage.results.exceptions import OtelStorageError

_COMMANDS = {
    "demo": ("otel_storage.cli.demo", "demo"),
    "runs": ("otel_storage.cli.runs", "runs"),
    "show": ("otel_storage.cli.runs", "show"),
    "deliver": ("otel_storage.cli.deliver", "deliver"),
    "metrics": ("otel_storage.cli.metrics", "metrics"),
    "status": ("otel_storage.cli.status", "status"),
    "reap": ("otel_storage.cli.reap", "reap"),
    "replay": ("otel_storage.cli.replay", "replay"),
    "cleanup": ("otel_storage.cli.cleanup", "cleanup"),
    "db": ("otel_storage.cli.db", "db"),
}


class Failure(click.ClickException):
    """What is wrong, in one line on stderr."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        from otel_storage.privacy.lines import one_line

        click.echo(f"otel-storage: {one_line(self.format_message())}", file=file or sys.stderr)


class _Commands(click.Group):
    """Imports a command when it is called: each needs different, and heavy, modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OtelStorageError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            ctx.exit(130)
        except Exception as error:
            if _is_database_error(error):
                cause = getattr(error, "orig", None) or error
                raise Failure(f"the database failed: {cause}") from error
            raise


def _print_version(context: click.Context, _option: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        from otel_storage.cli.version import version_line

        click.echo(version_line())
        context.exit()


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    # After \b click does not wrap what can be copied; https://click.palletsprojects.com/en/stable/shell-completion/.
    epilog="\b\nCompletion, in ~/.bashrc (for zsh and fish: zsh_source, fish_source):\n"
    '  eval "$(_OTEL_STORAGE_COMPLETE=bash_source otel-storage)"',
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version, with the commit where it is known, and exit.",
)
def cli() -> None:
    """Pipeline runs, stored in SQL and seen as traces."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: the entry point ``otel-storage``."""
    cli.main(args=args, prog_name="otel-storage")


def _is_database_error(error: Exception) -> bool:
    """Whether SQLAlchemy raised it; a command that does not import SQLAlchemy is not made to."""
    exceptions = sys.modules.get("sqlalchemy.exc")
    return exceptions is not None and isinstance(error, exceptions.SQLAlchemyError)
