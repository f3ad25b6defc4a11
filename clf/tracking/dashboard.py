"""A dashboard in Weights & Biases for a run or for all runs of a project: a workspace, where curves
are compared, and a report, to be read and shared. Both have the same panels.

    dashboard = Dashboard("clf", None, "digits", runs={"1f00b4d2": "digits"})
    dashboard.write(Path("dashboard.json"))                   # anywhere
    upload(Dashboard.read(Path("dashboard.json")))            # where there is a network and a key

Imports no torch, and W&B only to upload.
"""

import json
import os
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from clf.run_folder import RunFolder
from clf.tracking.wandb_key import NO_KEY, has_key, unreachable

STEP = "trainer/global_step"
ROW = 24  # columns of a report's grid
LONGEST = 128  # characters of a report's title
NO_PACKAGE = (
    "a dashboard needs the package wandb-workspaces: pip install 'clf[dashboard]'; with --offline "
    "its definition is written without it, to be uploaded elsewhere"
)

CURVES = {
    "Loss": ["train/loss", "val/loss"],
    "Top-1 accuracy": ["train/acc_top1", "val/acc_top1"],
    "Macro accuracy and F1": ["val/acc_macro", "val/f1_macro"],
    "Calibration error": ["val/ece"],
    "Norm of the gradient, before clipping": ["train/grad_norm"],
    "Images a second, over all ranks": ["train/images_per_second"],
    "Share of the time that waits for images": ["train/waiting_share"],
}
MACHINE = {  # W&B's names of what it measures
    "GPU, % busy": r"system/gpu\.\d+\.gpu",
    "GPU memory, %": r"system/gpu\.\d+\.memoryAllocated",
    "CPU, % busy": r"system/cpu",
    "Memory, %": r"system/memory_percent",
    "Received over the network": r"system/network\.recv",
}
OF_NODE = "(/l:.*)?$"  # how tracking.mode=shared marks a node's metrics
# W&B's own charts, with the fields of the tables that `clf.tracking.charts` logs
CHARTS = {
    "class_accuracy": ("wandb/bar/v0", {"label": "class", "value": "accuracy"}),
    "confusion_matrix": (
        "wandb/confusion_matrix/v1",
        {name: name for name in ("Actual", "Predicted", "nPredictions")},
    ),
    "calibration": ("wandb/lineseries/v0", {name: name for name in ("step", "lineKey", "lineVal")}),
}


@dataclass(frozen=True)
class Dashboard:
    """What is shown; plain values, so that a file holds it.

    Attributes:
        project, entity: where the runs are; without an entity they are the key's own
        title: of workspace and report
        runs: W&B's id -> name; {}: every run of the project
        split: of the evaluation that ends the runs
        nodes: names, where there are several
        summary: sentences above the report's panels
        addresses: of the "report" and the "workspace" that were uploaded, which are to be updated
    """

    project: str
    entity: str | None
    title: str
    runs: dict[str, str] = field(default_factory=dict)
    split: str = "test"
    nodes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        RunFolder.write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Dashboard":
        """Raises:
        FileNotFoundError: there is no such file
        ValueError: it is not what `write` wrote
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = {one.name for one in fields(Dashboard)}
            return Dashboard(**{key: value for key, value in content.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no definition of a dashboard ({error}); launch/dashboard.py RUN "
                "--offline writes one"
            ) from None


def why_offline() -> str:
    """Why nothing can be uploaded from here; "" if it can."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return unreachable(server) if has_key(server) else NO_KEY


def upload(dashboard: Dashboard) -> dict[str, str]:
    """Create or update the report and the workspace; their addresses.

    Raises:
        ValueError: what has to be corrected, such as a project that does not exist yet
        Exception: of W&B, which has no common class for its errors
    """
    try:
        import wandb
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError:
        raise ValueError(NO_PACKAGE) from None
    wandb.setup(wandb.Settings(silent=True))
    entity = dashboard.entity or wandb.Api().default_entity
    if not entity:
        raise ValueError("W&B does not say whose project it is; give it with --entity NAME")
    place: dict[str, Any] = {"entity": entity, "project": dashboard.project}
    shown = [expr.Metric("ID").isin([*dashboard.runs])] if dashboard.runs else []
    runset = wr.Runset(**place, name=dashboard.title, filters=shown)
    report = _known(wr.Report.from_url, dashboard.addresses.get("report"))
    report = report or wr.Report(**place)
    report.title, report.blocks = dashboard.title[:LONGEST], _blocks(wr, dashboard, runset)
    report.width = "fluid"
    workspace = _known(ws.Workspace.from_url, dashboard.addresses.get("workspace"))
    workspace = workspace or ws.Workspace(**place)
    workspace.name = _plain(dashboard.title)
    workspace.sections = [
        ws.Section(name=name, panels=panels, is_open=True)
        for name, panels in _sections(wr, dashboard).items()
    ]
    workspace.settings.x_axis = STEP
    workspace.runset_settings = ws.RunsetSettings(filters=shown)
    try:
        report.save()
    except ValueError as error:
        if "not found" not in str(error):
            raise
        raise ValueError(
            f"W&B has no project {entity}/{dashboard.project} yet; launch/jobs.py sync uploads "
            "runs that were recorded offline"
        ) from None
    workspace.save()
    return {"report": report.url, "workspace": workspace.url}


def _known(read: Callable[[str], Any], address: str | None) -> Any:
    """What was uploaded before; None if there is nothing, or it was deleted since."""
    try:
        return read(address) if address else None
    except Exception:  # W&B's errors have no common class; a new one is made
        return None


def _plain(title: str) -> str:
    """Without the characters that a workspace's name may not have: W&B takes all symbols, "=" and
    "+" too, for emojis."""
    kinds = ("So", "Sk", "Sm", "Sc", "Cs")
    return "".join("-" if unicodedata.category(one) in kinds else one for one in title)


def _blocks(wr: Any, dashboard: Dashboard, runset: Any) -> list[Any]:
    """Of the report."""
    blocks: list[Any] = [wr.P(sentence) for sentence in dashboard.summary]
    for name, panels in _sections(wr, dashboard).items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runset], panels=_placed(wr, panels))]
    return blocks


def _placed(wr: Any, panels: list[Any]) -> list[Any]:
    """The panels beside each other, as many as fit in a row."""
    x = y = row_height = 0
    for panel in panels:
        is_curve = isinstance(panel, wr.LinePlot)
        width, height = (8, 6) if is_curve else (12, 12)
        if x + width > ROW:
            x, y, row_height = 0, y + row_height, 0
        panel.layout = wr.Layout(x=x, y=y, w=width, h=height)
        x, row_height = x + width, max(row_height, height)
    return panels


def _sections(wr: Any, dashboard: Dashboard) -> dict[str, list[Any]]:
    """Title -> panels."""
    split = dashboard.split
    tables = [f"{name}/per_class" for name in dict.fromkeys(("val", split))]
    pictures = wr.MediaBrowser(title="Surest errors", media_keys=[f"{split}/worst_pictures"])
    nodes = f"Nodes: {', '.join(dashboard.nodes)}" if dashboard.nodes else "The machine"
    return {
        "Curves": [wr.LinePlot(title=title, x=STEP, y=[*names]) for title, names in CURVES.items()]
        + [wr.LinePlot(title="Learning rate", x=STEP, metric_regex="lr-.*")],
        "By class": [
            *(wr.WeavePanelSummaryTable(table_name=name) for name in tables),
            _chart(wr, split, "class_accuracy"),
        ],
        "Confusion, calibration and the surest errors": [
            _chart(wr, split, "confusion_matrix"),
            _chart(wr, split, "calibration"),
            pictures,
        ],
        nodes: [
            wr.LinePlot(title=title, x="RelativeTime(Wall)", metric_regex=pattern + OF_NODE)
            for title, pattern in MACHINE.items()
        ],
    }


def _chart(wr: Any, split: str, name: str) -> Any:
    """One of W&B's own charts of the table that `wandb.plot` logged under a name."""
    kind, chart_fields = CHARTS[name]
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{split}/{name}_table"}},
        chart_name=kind,
        chart_fields=chart_fields,
        chart_strings={"title": f"{split}: {name.replace('_', ' ')}"},
    )
