"""What the readers of folders and annotations share: a row of the index, and the error."""

from typing import NamedTuple


class DataError(ValueError):
    """Something about the user's images that the user can mend; the message names it."""


class Row(NamedTuple):
    """One image before its class has a number."""

    path: str
    label: str | int  # all of an index are text, or all are numbers
    where: str  # what to look at if the row is wrong: the image, or a line of the annotations


def first_and_count(items: list[str], limit: int) -> str:
    """ "a, b, c and 7 more"."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
