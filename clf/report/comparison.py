"""The page of several runs: each beside the first, class by class; and a sweep's runs by their
settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.atomic import write_text
from clf.config.faults import printable
from clf.metrics.measures import find, shown
from clf.report.charts import Chart, series_of
from clf.report.compare import Comparison, Difference, compare, different_settings
from clf.report.page import Section, fields, page, plot, text
from clf.report.read import RunReport
from clf.report.sections import NAMES

NUMBERS = ("acc_top1", "acc_macro", "f1_macro", "loss", "ece")
OVERLAID = [
    ("Validation top-1", "val/acc_top1", "%"),
    ("Validation macro", "val/acc_macro", "%"),
    ("Validation loss", "val/loss", ""),
    ("Training loss", "train/loss", ""),
]


@dataclass(frozen=True)
class Compared:
    """A run beside the first one."""

    run: RunReport
    comparison: Comparison | None  # None: one of them has no predictions, or on other images
    why: str  # it is None
    settings: list[tuple[str, object, object]]  # key, the first run's, this run's


def compare_runs(runs: Sequence[RunReport]) -> list[Compared]:
    """Every further run beside the first."""
    first = runs[0]
    found = []
    for run in runs[1:]:
        settings = list(different_settings(first.config, run.config))
        try:
            found.append(Compared(run, _comparison(first, run), "", settings))
        except ValueError as error:
            found.append(Compared(run, None, str(error), settings))
    return found


def _comparison(first: RunReport, second: RunReport) -> Comparison:
    for run in (first, second):
        if run.predictions is None:
            raise ValueError(
                f"{run.name} has no predictions of each image: it has not ended, or an older "
                "version wrote it; it is compared by its totals alone"
            )
    assert first.predictions is not None
    assert second.predictions is not None
    return compare(first.predictions, second.predictions)


def write_comparison(
    runs: Sequence[RunReport], out: Path, swept: dict[str, dict[str, str]] | None = None
) -> Path:
    """The page of several runs.

    Args:
        swept: run -> its settings in the sweep, key -> value; None: no sweep
    """
    found = compare_runs(runs)
    title = " and ".join(run.name for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    if swept:
        title = f"sweep {runs[0].folder.path.resolve().parent.name}"
    sections = [
        *([_sweep(runs, swept)] if swept else []),
        _table(runs, found),
        *(_classes(runs[0], one, place) for place, one in enumerate(found) if not swept),
        _curves(runs),
        _settings(runs, found),
    ]
    top = (
        f'<h1>{text(title)}</h1><p class="dim">{len(runs)} runs; a paired bootstrap over the '
        "images and McNemar's test say what is more than noise</p>"
    )
    write_text(out, page(title, top, [one for one in sections if one.html]))
    return out


def _table(runs: Sequence[RunReport], found: Sequence[Compared]) -> Section:
    names = [name for name in NUMBERS if any(run.final(name) is not None for run in runs)]
    columns: list[dict[str, Any]] = [{"name": "run"}, {"name": "images"}]
    for name in names:
        measure = find(f"test/{name}")
        label = measure.label if measure else name
        columns.append({"name": label, "share": bool(measure and measure.share)})
    rows = [[run.name, NAMES[run.split], *(run.final(name) for name in names)] for run in runs]
    lines = [line for one in found for line in _verdict(runs[0], one)]
    html = (
        f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
        '<div data-table="runs" aria-label="runs"></div>'
    )
    return Section("runs", "Runs", html, {"tables": {"runs": {"columns": columns, "rows": rows}}})


def _verdict(first: RunReport, one: Compared) -> list[str]:
    if one.comparison is None:
        return [f'<b>{text(one.run.name)}</b>: <span class="bad">{text(one.why)}</span>']
    parts = ", ".join(sentence(number) for number in one.comparison.overall)
    clear = len(one.comparison.clear)
    classes = f"{clear} of {len(one.comparison.classes)} classes differ by more than noise"
    lines = [
        f"<b>{text(one.run.name)}</b> beside {text(first.name)} on {one.comparison.images:,} "
        f"images: {text(parts)}; {classes}"
    ]
    return lines + [text(note) for note in one.comparison.notes]


def sentence(number: Difference) -> str:
    """`top-1 +1.2 points (0.3 to 2.1), more than noise`"""
    verdict = "more than noise" if number.more_than_noise else "within noise"
    return f"{number.name} {points(number.difference)} points ({interval(number)}), {verdict}"


def points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"


def interval(number: Difference) -> str:
    return f"{100 * number.low:+.1f} to {100 * number.high:+.1f}"


def _classes(first: RunReport, one: Compared, place: int) -> Section:
    id, title = f"classes-{place}", f"Classes: {one.run.name}"
    if one.comparison is None:
        return Section(id, title, "")
    columns = [
        {"name": "class"},
        {"name": "support"},
        {"name": first.name, "share": True},
        {"name": one.run.name, "share": True, "bar": True},
        {"name": "difference", "share": True, "signed": True},
        {"name": "from", "share": True, "signed": True},
        {"name": "to", "share": True, "signed": True},
        {"name": "more than noise"},
    ]
    listed = sorted(
        one.comparison.classes, key=lambda row: (not row.more_than_noise, -abs(row.difference))
    )
    rows = [
        [row.name, row.support, row.first, row.second, row.difference, row.low, row.high]
        + ["yes" if row.more_than_noise else ""]
        for row in listed
    ]
    words = (
        '<p class="dim">From and to: the 95 % interval of the difference, by a paired bootstrap. '
        "More than noise: by McNemar's exact test, of all classes together (Benjamini and Hochberg "
        "at 5 %).</p>"
    )
    html = f'{words}<div data-table="{id}" aria-label="{text(title)}"></div>'
    return Section(id, title, html, {"tables": {id: {"columns": columns, "rows": rows}}})


def _curves(runs: Sequence[RunReport]) -> Section:
    drawn: dict[str, Chart] = {}
    html = ""
    for number, (title, column, unit) in enumerate(OVERLAID):
        series = [series_of(run, column, run.name, unit) for run in runs]
        if not any(one["x"] for one in series):
            continue
        layout = {
            "xaxis": {"title": {"text": "step"}},
            "yaxis": {"tickformat": ".1~%" if unit == "%" else ""},
            "showlegend": len(runs) <= 6,
        }
        drawn[f"compared-{number}"] = {"data": series, "layout": layout}
        html += f'<div class="chart"><h3>{text(title)}</h3>{plot(f"compared-{number}")}</div>'
    html = f'<div class="charts">{html}</div>' if html else ""
    return Section("curves", "Curves", html, {"charts": drawn})


def _settings(runs: Sequence[RunReport], found: Sequence[Compared]) -> Section:
    keys = list(dict.fromkeys(key for one in found for key, *_ in one.settings))
    if not keys:
        same = '<p class="dim">The runs have the same settings.</p>'
        return Section("settings", "Settings", same if all(run.config for run in runs) else "")
    by_run = [{key: value for key, _, value in one.settings} for one in found]
    firsts = {key: value for one in found for key, value, _ in one.settings}
    rows = [
        [key, _plain(firsts[key]), *(_plain(of.get(key, firsts[key])) for of in by_run)]
        for key in keys
    ]
    columns = [{"name": "setting"}, *({"name": run.name} for run in runs)]
    html = '<div data-table="settings" aria-label="settings that differ"></div>'
    table = {"columns": columns, "rows": rows}
    return Section("settings", "Settings", html, {"tables": {"settings": table}})


def _plain(value: object) -> str:
    return "null" if value is None else printable(str(value))


def _sweep(runs: Sequence[RunReport], swept: dict[str, dict[str, str]]) -> Section:
    """The runs as lines over the swept settings and the result, and as a table."""
    keys = list(dict.fromkeys(key for chosen in swept.values() for key in chosen))
    ended = [run for run in runs if run.final("acc_top1") is not None]
    chosen = [swept.get(run.folder.path.name, {}) for run in runs]
    rows = [
        [run.name, *(of.get(key, "") for key in keys), run.status.get("state", "not started")]
        + [run.final("acc_top1"), run.final("acc_macro"), run.final("loss")]
        for run, of in zip(runs, chosen, strict=True)
    ]
    columns: list[dict[str, Any]] = [{"name": "run"}, *({"name": key} for key in keys)]
    columns += [{"name": "state"}, {"name": "top-1", "share": True, "bar": True}]
    columns += [{"name": "macro", "share": True}, {"name": "loss"}]
    dimensions = [
        _dimension(key, [swept.get(run.folder.path.name, {}).get(key, "") for run in ended])
        for key in keys
    ]
    results = [run.final("acc_top1") or 0.0 for run in ended]
    macros = [run.final("acc_macro") or 0.0 for run in ended]
    dimensions.append({"label": "macro", "values": macros, "tickformat": ".1~%"})
    dimensions.append({"label": "top-1", "values": results, "tickformat": ".1~%"})
    chart = {
        "data": [{"type": "parcoords", "line": {"color": results}, "dimensions": dimensions}],
        "layout": {"margin": {"l": 70, "r": 70, "t": 50, "b": 20}},
    }
    best = max(ended, key=lambda run: run.final("acc_top1") or 0.0, default=None)
    words = ""
    if best is not None:
        top_1 = shown(f"{best.split}/acc_top1", best.final("acc_top1") or 0.0)
        pairs = swept.get(best.folder.path.name, {}).items()
        chosen_by = [(key, text(value)) for key, value in pairs]
        words = fields([("best", text(f"{best.name}: top-1 {top_1}")), *chosen_by])
    drawn = f'<div class="chart">{plot("sweep-lines", "wide")}</div>' if ended else ""
    html = f'{words}{drawn}<div data-table="sweep" aria-label="runs of the sweep"></div>'
    data: dict[str, Any] = {"tables": {"sweep": {"columns": columns, "rows": rows}}}
    if ended:
        data["charts"] = {"sweep-lines": chart}  # not the section's id: an id is one place
    return Section("sweep", "Sweep", html, data)


def _dimension(key: str, texts: list[str]) -> dict[str, Any]:
    """An axis of the parallel coordinates: of numbers, or of words at even distances."""
    try:
        values = [float(one) for one in texts]
    except ValueError:
        words = sorted(set(texts))
        places = [words.index(one) for one in texts]
        return {
            "label": key,
            "values": places,
            "tickvals": list(range(len(words))),
            "ticktext": [printable(word) for word in words],
        }
    ticks = sorted(set(values))
    axis = {"label": key, "values": values}
    few = {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return axis | (few if len(ticks) < 8 else {})
