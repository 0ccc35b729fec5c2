"""Management commands that run a command of ``otel-storage``: the same options and work, with Django's errors."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from inspect import cleandoc
from typing import Any, ClassVar

import click
from django.core.management.base import BaseCommand, CommandError, DjangoHelpFormatter

from otel_storage.cli import cli
from otel_storage.privacy.lines import one_line


class _HelpFormatter(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Sorts options as Django does, and keeps the description's lines."""


class CliCommand(BaseCommand):
    """A command of ``otel-storage``, for the project's storage."""

    command: ClassVar[click.Command]
    words: ClassVar[tuple[str, ...]]
    """The arguments of ``otel-storage`` that call the command."""

    # Skip the checks: no command uses the project's models, and the command may fix what a check finds.
    requires_system_checks: ClassVar[list[str]] = []

    @property
    def help(self) -> str:
        """The help text of the command of ``otel-storage``."""
        return click.wrap_text(cleandoc(self.command.help or ""), preserve_paragraphs=True)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the lines of the description."""
        return super().create_parser(prog_name, subcommand, formatter_class=_HelpFormatter, **kwargs)

    def add_arguments(self, parser: Any) -> None:
        """Add the options of the command of ``otel-storage``, which also validates their values."""
        for option in self._options:
            words = option.help or ""
            if option.show_default:
                words += f" Default: {option.default}."
            words = words.replace("%", "%%")
            if option.is_flag:
                parser.add_argument(*option.opts, dest=option.name, action="store_true", help=words)
            else:
                parser.add_argument(*option.opts, dest=option.name, metavar=option.metavar, help=words)

    def handle(self, *_args: Any, **options: Any) -> None:
        """Run the command of ``otel-storage``.

        Raises:
            CommandError: the command failed; has its message and exit code.
        """
        with _streams(options):
            try:
                code = cli.main([*self.words, *self._arguments(options)], "otel-storage", standalone_mode=False)
            except click.ClickException as error:
                raise CommandError(one_line(error.format_message()), returncode=error.exit_code) from error
            except click.Abort:
                code = 1
        if code:
            sys.exit(code)

    @property
    def _options(self) -> list[click.Option]:
        return [parameter for parameter in self.command.params if isinstance(parameter, click.Option)]

    def _arguments(self, options: dict[str, Any]) -> Iterator[str]:
        for option in self._options:
            value = options.get(option.name or "")
            if option.is_flag:
                if value:
                    yield option.opts[0]
            elif value is not None:
                yield f"{option.opts[0]}={value}"


@contextmanager
def _streams(options: dict[str, Any]) -> Iterator[None]:
    """Print to the caller's stream, with colours if the caller wants them."""
    with ExitStack() as stack:
        if options.get("stdout"):
            stack.enter_context(redirect_stdout(options["stdout"]))
        if options.get("stderr"):
            stack.enter_context(redirect_stderr(options["stderr"]))
        if options.get("no_color"):
            # NO_COLOR does not disable bold and dim text, but --no-color must.
            stack.enter_context(_environment(NO_COLOR="1", TERM="dumb"))
        elif options.get("force_color"):
            stack.enter_context(_environment(FORCE_COLOR="1"))
        yield


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
