"""How everything is laid out on the screen: fields, columns, commands and faults.

Names, paths and commands are printed whole at any width: the terminal may break a line, but the
text holds no ellipsis and no line break, so that it can be copied.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from clf.atomic import Unwritten
from clf.config.faults import ConfigError, is_for_the_user
from launch.typed import as_typed
from launch.typed import sibling as sibling  # for those that print commands
from slurm.queue import QueueError


def console(width: int | None = None) -> Any:
    """Rich's console; plain text where the output is no terminal.

    Args:
        width: in columns; None: as wide as the terminal
    """
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=width)


def is_live(out: Any) -> bool:
    """Whether a line can be drawn again in place: not in a file, and not with TERM=dumb."""
    return out.is_terminal and not out.is_dumb_terminal


def print_fields(
    out: Any, fields: dict[str, str | None], styles: dict[str, str] | None = None
) -> None:
    """A line for each field; an empty one is left out. `styles`: of the text, by field."""
    from rich.text import Text

    width = max(map(len, fields)) + 2
    for name, text in fields.items():
        if text:
            line = Text(name.ljust(width), style="dim")
            line.append(text, style=(styles or {}).get(name, "default"))
            out.print(line)


def print_columns(out: Any, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under their names; those that are empty in every row are left out.

    Rows that a terminal is too narrow for become blocks: the first cell on a line of its own, and
    the others below it.
    """
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    columns = [columns[place] for place in kept]
    rows = [[row[place] for place in kept] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    if out.is_terminal and sum(widths) + 2 * (len(widths) - 1) > out.width:
        for row in rows:
            out.print(row[0], style="bold", markup=False)
            for name, cell in zip(columns[1:], row[1:], strict=True):
                if cell:
                    out.print(f"  {name.ljust(max(map(len, columns)))}  {cell}", markup=False)
        return
    for row, style in [(columns, "bold"), *((row, "default") for row in rows)]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        out.print("  ".join(cells).rstrip(), markup=False, style=style)


def print_commands(out: Any, commands: Sequence[tuple[str, str]]) -> None:
    """Commands on lines of their own, each below what it does."""
    for command, meaning in commands:
        out.print(f"  # {meaning}", markup=False, style="dim")
        out.print(f"  {command}", markup=False, style="cyan")


def print_notes(notes: Sequence[str], file: Any = None) -> None:
    for note in notes:
        print(as_typed(f"note: {note}"), file=file or sys.stdout)


def announce(text: str) -> None:
    """A line before something that takes long; not part of what the command answers."""
    print(as_typed(text), file=sys.stderr, flush=True)


def fail(message: object, code: int = 2) -> int:
    """Print a message for the user, alone, and give the exit code: 2 for what the user can correct,
    1 for a failed job."""
    print(as_typed(str(message)), file=sys.stderr)
    return code


def exit_code(act: Callable[..., int], *arguments: Any, heading: bool = True) -> int:
    """The exit code of `act(*arguments)`; a fault that the user can correct is printed alone.

    Args:
        heading: print how many faults of a configuration there are above them
    """
    try:
        return act(*arguments)
    except (QueueError, Unwritten) as error:
        return fail(error, 1)
    except ConfigError as error:
        return fail(error if heading else "\n".join(error.faults))
    except ValueError as error:
        if not is_for_the_user(error):
            raise
        return fail(error)


def duration(seconds: float | None, after: str = "") -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min{after}"
    return f"{minutes} min {rest:02} s{after}" if minutes else f"{rest} s{after}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
