"""The sections of a run's report, each from what the run has left; one that lacks its records says
how to get them."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import clf.report.charts as charts
from clf.metrics.columns import CLASS_COLUMNS
from clf.metrics.measures import find, shown
from clf.predictions import (
    UNKNOWN,
    Predictions,
    confidently_wrong,
    largest_confusions,
    least_certain,
)
from clf.report.page import Section, fields, plot, text
from clf.report.read import RunReport
from clf.run_folder import TILES

HEADLINE = ("acc_top1", "acc_top5", "acc_macro", "f1_macro", "loss", "ece")
NAMES = {"train": "training", "val": "validation", "test": "test"}
NO_PREDICTIONS = (
    '<p class="dim">The predictions of each image are not in the run folder: the run has not '
    "ended, or an older version wrote it. <code>python launch/evaluate.py {run} --report</code> "
    "writes a report with them.</p>"
)


def top(run: RunReport) -> str:
    """Title, result, and what was trained on what, on one screen."""
    state = run.status.get("state", "not started")
    evaluated = f"{NAMES[run.split]} images" if not run.source else text(run.source)
    cards = "".join(
        f'<div class="card"><b>{text(shown(f"{run.split}/{name}", value))}</b>'
        f"<span>{text(_label(run, name))}</span></div>"
        for name in HEADLINE
        if (value := run.final(name)) is not None
    )
    stopped = run.status.get("stopped_early")
    return (
        f'<h1>{text(run.name)}</h1><p class="dim">{text(state)}, {evaluated}'
        f"{'; ' + text(stopped) if stopped else ''}</p>"
        f'<div class="cards">{cards}</div>{fields(_summary(run))}{_notes(run)}'
    )


def _label(run: RunReport, name: str) -> str:
    found = find(f"{run.split}/{name}")
    label = found.label if found else name
    return label if run.source else f"{label}, {NAMES[run.split]}"  # the line above says which


def _summary(run: RunReport) -> Iterator[tuple[str, str]]:
    model, data = run.config.get("model", {}), run.config.get("data", {})
    training = [str(model.get("_target_", "")).rsplit(".", 1)[-1]]
    for key, words in (("optimizer", "{}"), ("learning_rate", "learning rate {:g}")):
        if model.get(key) is not None:
            training.append(words.format(model[key]))
    if epochs := run.status.get("epochs", run.config.get("epochs")):
        done = run.status.get("epoch")
        words = f"{epochs} epoch{'s' if epochs > 1 else ''}"
        training.append(f"{done} of {words}" if done not in (None, epochs) else words)
    if data.get("batch_size"):
        training.append(f"{data['batch_size']} images a step")
    yield "model", text(", ".join(part for part in training if part))
    yield "data", _data(run)
    device = run.status.get("device")
    nodes = run.config.get("nodes", 1)
    where = [
        f"{nodes} nodes" if nodes not in (None, 1) else "",
        device or "",
        run.status.get("host") or "",
    ]
    yield "on", text(", ".join(part for part in where if part))
    if run.status.get("started") and run.status.get("updated"):
        yield "latest start", text(_duration(run.status["updated"] - run.status["started"]))
    restarts = [
        one for one in run.events if one.get("event") in ("requeued", "preempted", "failed")
    ]
    reasons = dict.fromkeys(str(one.get("reason") or one["event"]) for one in restarts)
    yield "restarts", text(f"{len(restarts)}: {'; '.join(reasons)}" if restarts else "none")
    yield "W&B", text(_brief(run, run.status.get("wandb") or ""))
    again = f"python launch/submit.py --config {_brief(run, str(run.folder.config))} --name NEW"
    yield "the same again", f"<code>{text(again)}</code>" if run.config_text else ""


def _brief(run: RunReport, path: str) -> str:
    """A path in the run folder, from `runs/` on: the folder may be anywhere by now."""
    own = run.folder.path.resolve()
    if not path or "://" in path or not Path(path).resolve().is_relative_to(own):
        return path
    if own.parent.name != "runs":  # a path from there on would be found from nowhere
        return str(Path(path).resolve())
    return str(Path(path).resolve().relative_to(own.parent.parent))


def _data(run: RunReport) -> str:
    data = run.config.get("data", {})
    root = run.root or data.get("root") or ""
    counts = {split: sum(of.values()) for split, of in run.images.items()}
    parts = [f"{count:,} {NAMES[split]}" for split, count in counts.items() if count]
    classes = f"{len(run.classes):,} classes" if run.classes else ""
    return text(", ".join(str(part) for part in (data.get("name"), root, classes, *parts) if part))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _notes(run: RunReport) -> str:
    if not run.notes:
        return ""
    lines = "".join(f"<li>{text(note)}</li>" for note in run.notes)
    return f"<details><summary>{len(run.notes)} notes</summary><ul>{lines}</ul></details>"


def sections(run: RunReport) -> list[Section]:
    """All sections, in the order of the page."""
    found = [curves(run), classes(run)]
    if run.predictions is not None:
        pictures = Pictures(run, run.predictions)
        found += [confusions(pictures), worst(pictures), calibration(run.predictions)]
    else:
        lacking = NO_PREDICTIONS.format(run=text(run.folder.path))
        found.append(Section("confusion-matrix", "Confusion", lacking))
    found += [distribution(run), training_images(run), configuration(run)]
    return [section for section in found if section.html]


def curves(run: RunReport) -> Section:
    drawn = charts.curves(run)
    html = "".join(
        f'<div class="chart"><h3>{text(title)}</h3>{plot(f"curve-{number}")}</div>'
        for number, (title, _) in enumerate(drawn)
    )
    data = {"charts": {f"curve-{number}": chart for number, (_, chart) in enumerate(drawn)}}
    restarts = sum(
        "shapes" in chart["layout"] and bool(chart["layout"]["shapes"]) for _, chart in drawn
    )
    note = '<p class="dim">Dotted lines mark where a further start went on.</p>' if restarts else ""
    return Section(
        "curves", "Curves", f'{note}<div class="charts">{html}</div>' if drawn else "", data
    )


def classes(run: RunReport) -> Section:
    """The per-class table, the worst class first; on several nodes with the accuracy on each."""
    if not run.per_class:
        return Section("classes", "Classes", "")
    own = {column.name: column for column in CLASS_COLUMNS}
    names = [name for name in run.per_class[0] if "/" not in name]
    nodes = [name.removeprefix("support/") for name in run.per_class[0] if name[:8] == "support/"]
    columns: list[dict[str, Any]] = [
        {"name": name, "share": name in own and own[name].share, "bar": name == "accuracy"}
        for name in names
    ]
    columns += [{"name": f"accuracy on {node}", "share": True} for node in nodes]
    rows = [
        [_cell(name, row[name]) for name in names] + [_on_node(row, node) for node in nodes]
        for row in run.per_class
    ]
    sort = names.index("accuracy") if "accuracy" in names else 0
    html = f'<div data-table="classes" data-sort="{sort}" aria-label="classes"></div>'
    return Section(
        "classes", "Classes", html, {"tables": {"classes": {"columns": columns, "rows": rows}}}
    )


def _on_node(row: dict[str, str], node: str) -> float | None:
    """The accuracy of a class on a node's share of the images; None if it had none."""
    support, correct = int(row[f"support/{node}"]), int(row[f"correct/{node}"])
    return correct / support if support else None


def _cell(name: str, cell: str) -> Any:
    if name == "class":
        return cell
    if cell == "":
        return None
    return float(cell) if "." in cell or "e" in cell else int(cell)


class Pictures:
    """The images that the page shows, each once, with its picture if the run has kept one."""

    def __init__(self, run: RunReport, predictions: Predictions) -> None:
        self.run, self.predictions = run, predictions
        self.items: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def of(self, rows: Any) -> list[int]:
        """The places in `items` of some rows of the predictions."""
        return [self._place(int(row)) for row in rows]

    def _place(self, row: int) -> int:
        if row not in self._numbers:
            self._numbers[row] = len(self.items)
            p = self.predictions
            label = int(p.labels_N[row])
            file = self.run.pictures / f"{p.indices_N[row]}.jpg"
            picture = base64.b64encode(file.read_bytes()).decode() if file.is_file() else None
            self.items.append(
                {
                    "path": p.images[row],
                    "label": "" if label == UNKNOWN else p.classes[label],
                    "predicted": p.classes[int(p.predicted_N[row])],
                    "confidence": float(p.confidence_N[row]),
                    "picture": picture,
                }
            )
        return self._numbers[row]


def confusions(pictures: Pictures) -> Section:
    """The matrix, and the largest confusions with their images."""
    predictions = pictures.predictions
    chart, spans = charts.confusion(predictions)
    labels_n = predictions.labels_N[predictions.labels_N != UNKNOWN]
    support_C = np.bincount(labels_n, minlength=len(predictions.classes))
    pairs = [
        {
            "label": pair.label,
            "predicted": pair.predicted,
            "count": pair.images,
            "support": int(support_C[pair.label]),
            "images": pictures.of(pair.rows),
        }
        for pair in largest_confusions(predictions)
    ]
    C = len(predictions.classes)
    together = (
        f'<p class="dim">{C:,} classes are drawn as {len(spans)}, neighbours added up; the list '
        "beside it is of single classes.</p>"
        if len(spans) < C
        else ""
    )
    listed = (
        '<ol class="list" id="confusion-list" aria-label="largest confusions"></ol>'
        if pairs
        else '<p class="good">No image was taken for another class.</p>'
        '<ol hidden id="confusion-list"></ol>'
    )
    html = (
        f'{together}<div class="two"><div class="chart">{plot("confusion", "tall")}</div>'
        f"<div><h3>Largest confusions: true → predicted</h3>{listed}</div></div>"
        '<div id="confusion-pictures" aria-live="polite"></div>'
    )
    data = {
        "charts": {"confusion": chart},
        "confusions": pairs,
        "spans": spans,
        "names": predictions.classes,
    }
    return Section("confusion-matrix", "Confusion", html, data)


def worst(pictures: Pictures) -> Section:
    lists = {
        "wrong": pictures.of(confidently_wrong(pictures.predictions)),
        "unsure": pictures.of(least_certain(pictures.predictions)),
    }
    titles = {"wrong": "Confidently wrong", "unsure": "Least certain"}
    # The last section that asks for images: those of all sections are in the list now.
    html = "".join(
        f'<h3>{titles[name]}</h3><div class="pictures" data-pictures="{name}"></div>'
        for name, rows in lists.items()
        if rows
    )
    data = {"lists": lists, "images": pictures.items}
    return Section("pictures", "Worst pictures", html, data)


def calibration(predictions: Predictions) -> Section:
    html = (
        '<p class="dim">How many of the predictions of a confidence are right. A bar below the '
        "line: the network is too sure of itself.</p>"
        f'<div class="chart">{plot("reliability", "wide")}</div>'
    )
    data = {"charts": {"reliability": charts.reliability(predictions)}}
    return Section("calibration", "Calibration", html, data)


def distribution(run: RunReport) -> Section:
    chart = charts.distribution(run)
    if chart is None:
        return Section("distribution", "Data", "")
    counts = [count for count in run.images["train"].values() if count]
    times = f"{max(counts) / min(counts):.3g} times"
    words = f"The largest class has {times} the training images of the smallest."
    html = (
        f'<p class="dim">{words}</p><div class="chart">{plot("distribution-chart", "wide")}</div>'
    )
    return Section("distribution", "Data", html, {"charts": {"distribution-chart": chart}})


def training_images(run: RunReport) -> Section:
    if not run.tiles or not run.folder.train_images.is_file():
        return Section("training-images", "Training images", "")
    grid = base64.b64encode(run.folder.train_images.read_bytes()).decode()
    rows = -(-len(run.tiles) // TILES)

    def share(place: int, of: int) -> str:
        return f"{100 * place / max(of - 1, 1):.3f}%"

    tiles = "".join(
        f'<div><i style="background-position: {share(place % TILES, TILES)} '
        f'{share(place // TILES, rows)}" role="img" aria-label="{text(name)}"></i>'
        f"{text(name)}</div>"
        for place, name in enumerate(run.tiles)
    )
    style = (
        f"<style>.tiles i {{ background-image: url(data:image/png;base64,{grid}); "
        f"background-size: {100 * TILES}% {100 * rows}% }}</style>"
    )
    words = '<p class="dim">The first training batch as the network sees it, augmented.</p>'
    return Section(
        "training-images", "Training images", f'{style}{words}<div class="tiles">{tiles}</div>'
    )


def configuration(run: RunReport) -> Section:
    versions = fields((name, text(value)) for name, value in run.environment.items() if value)
    settings = f"<pre>{text(run.config_text)}</pre>" if run.config_text else ""
    commit = json.dumps(run.commit) if run.commit else ""
    html = (
        f"<details><summary>Settings</summary>{settings}</details>"
        f"<details><summary>Environment</summary>{versions}"
        f"{fields([('commit', text(commit))])}</details>"
    )
    return Section("configuration", "Configuration", html)
