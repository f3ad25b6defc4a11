"""Numbers that a model logs itself, beside those of `measures.py`: its class declares them as
`logs`, {"val/auc": "max"}, so that `checkpoint.monitor` takes them. Imports no torch."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from clf.metrics.measures import find


def check_logged(name: str, logged: Iterable[str]) -> None:
    """ValueError if a number that is monitored is not among those that an epoch has logged."""
    if name not in logged:
        raise ValueError(
            f"checkpoint.monitor={name}: the model has not logged it in this epoch, though its "
            f'`logs` declare it; call self.log("{name}", value) in on_validation_epoch_end, or '
            "monitor another number"
        )


def declaration_fault(declared: Any) -> str | None:
    """What is wrong with the `logs` of a model class, if anything is."""
    if not isinstance(declared, Mapping):
        return f"expected a dictionary such as {{'val/auc': 'max'}}, got {declared!r}"
    for name, best in declared.items():
        if not re.fullmatch(r"(val|train)/\S+", str(name)) or best not in ("max", "min"):
            return (
                f"{name!r}: {best!r} cannot be monitored; expected a name that begins with val/ or "
                "train/, and 'max' or 'min' as what is best"
            )
        if find(name) is not None:
            return f"{name!r} is logged for every model already; choose another name"
    return None
