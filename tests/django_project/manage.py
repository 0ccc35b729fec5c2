#!/usr/bin/env python
"""Django's command line for this site; ``python manage.py demo`` shows what there is."""

import os
import sys


def main() -> None:
    """Run a command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    from shop.tracing import trace_process  # type: ignore[import-not-found]  # on the path of this script alone

    trace_process()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
