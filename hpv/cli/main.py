"""The command line is run: its errors become messages, and its exit code is chosen."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from hpv.base.errors import DataError, HpvError, InputError, StoppedError
from hpv.cli.app import command
from hpv.cli.spelling import spell
from hpv.cli.terminal import Terminal

BUG, USAGE, DATA, STOPPED, INTERRUPTED = 1, 2, 3, 75, 130
OF_ERRORS = {InputError: USAGE, DataError: DATA, StoppedError: STOPPED}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``hpv`` with these arguments (default: those of the process); the exit code.

    0 done or already complete, 2 bad input or usage, 3 the data failed while running, 75 stopped early, 130
    interrupted, 1 a bug.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    terminal = Terminal(as_json="--json" in given, spell=lambda text: spell(text, command))
    try:
        with terminal.showing_warnings():
            work = command().main(args=given, prog_name="hpv", standalone_mode=False)
            if callable(work):
                # Outside of the parser, which would make something else of an interrupt.
                work(terminal)
                return 0
            return int(work or 0)
    except HpvError as error:
        terminal.fail(str(error), type(error).__name__)
        return next((code for kind, code in OF_ERRORS.items() if isinstance(error, kind)), BUG)
    except KeyboardInterrupt:
        terminal.fail("interrupted; run the same command again to go on.", "KeyboardInterrupt")
        return INTERRUPTED
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        terminal.fail(f"out of memory{detail}; give less --memory or fewer --threads.", "MemoryError")
        return DATA
    except BrokenPipeError:
        # Whoever read stdout has seen enough; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if hasattr(error, "format_message"):
            return _fail_usage(terminal, error)
        traceback.print_exc()
        terminal.fail(f"this is a bug in hpv, please report it with the lines above: {error}", type(error).__name__)
        return BUG


def _fail_usage(terminal: Terminal, error: Any) -> int:
    """A mistake in the arguments, as the parser words it."""
    message, context = error.format_message(), getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        terminal.usage(message)
        return USAGE
    if context is not None:
        message = (
            f"{message if message.endswith('?') else message.rstrip('.') + '.'} See {context.command_path} --help."
        )
    terminal.fail(message, "UsageError")
    return USAGE
