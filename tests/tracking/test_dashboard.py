"""launch/dashboard.py and a stand-in for W&B: what it sends, and what it writes if it cannot."""

import json
from pathlib import Path

import pytest

from clf.config import RunConfig, TrackingConfig
from clf.config.saved import save
from clf.run_folder import RunFolder
from clf.tracking.tables import PerClassRow, write_csv
from launch.dashboard import main
from tests.tracking.stand_in import serving
from tests.tracking.test_wandb_run import hermetic  # noqa: F401

NODES = {"n1": (4, 2), "n2": (4, 4)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> RunFolder:
    """A finished run on two nodes, as its folder shows it."""
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create(tmp_path / "runs" / "one")
    cfg = RunConfig(name="one", tracking=TrackingConfig(project="birds"))
    save(cfg, folder.config)
    for split in ("val", "test"):
        write_csv([PerClassRow("owl", 8, 6, 7, NODES)], folder.per_class / f"{split}.csv")
    status = {
        "state": "finished",
        "wandb_id": "1f00b4d2",
        "metrics": {"test/acc_top1": 0.75, "test/loss": 0.5},
    }
    folder.write_json(folder.status, status)
    return folder


@pytest.fixture
def server(monkeypatch):
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield server


SHOWN = [
    *("train/loss", "val/loss", "val/acc_top1", "val/acc_macro", "lr-.*", "train/grad_norm"),
    *("train/images_per_second", "train/waiting_share", "val/per_class", "test/per_class"),
    *("test/class_accuracy_table", "test/confusion_matrix_table", "test/calibration_table"),
    *("wandb/confusion_matrix/v1", "test/worst_pictures", "trainer/global_step"),
    *("Nodes: n1, n2", "1f00b4d2"),
]


def test_a_run_gets_a_report_and_a_workspace_with_everything_that_it_logs(folder, server, capsys):
    assert main(["one"]) == 0
    report, workspace = server.views()
    assert (report["type"], workspace["type"]) == ("runs", "project-view")
    for view in (report, workspace):
        assert (view["entityName"], view["projectName"], view["displayName"]) == (
            "me",
            "birds",
            "one",
        )
        for name in SHOWN:
            assert name in view["spec"], name
    assert "one: test top-1 75.0 %" in report["spec"]
    out = capsys.readouterr().out
    assert f"{server.url}/me/birds/reports/one--dmlldzAw" in out.replace("\n", "")
    assert f"{server.url}/me/birds?nw=" in out


def test_called_again_it_changes_what_is_there(folder, server):
    assert main(["one"]) == main(["one"]) == 0
    first, second = server.views()[:2], server.views()[2:]
    assert [view.get("id") for view in first] == [None, None]
    assert [view.get("id") for view in second] == ["dmlldzAw", "dmlldzAx"]
    assert [view["name"] for view in first][1] == second[1]["name"]


def test_a_project_has_all_of_its_runs(folder, server):
    assert main(["team/birds"]) == 0
    report, workspace = server.views()
    assert workspace["displayName"] == "Project birds"
    assert {report["entityName"], workspace["entityName"]} == {"team"}
    assert "1f00b4d2" not in report["spec"] + workspace["spec"], "others may have runs there too"


def test_what_is_written_offline_can_be_uploaded_later(folder, server, monkeypatch, capsys):
    file = folder.wandb / "dashboard.json"
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["one"]) == 0
    out = capsys.readouterr().out
    assert "nothing is uploaded: there is no key" in out
    assert "--upload runs/one/wandb/dashboard.json" in out.replace("\n", "")
    assert main(["one", "--offline"]) == 0
    assert main(["--upload", str(file)]) == 1, "there is no key"
    assert server.views() == []
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    moved = file.rename(Path("elsewhere.json"))
    assert main(["--upload", str(moved), "--entity", "team"]) == 0
    report, workspace = server.views()
    assert {report["entityName"], workspace["entityName"]} == {"team"}
    assert all(name in report["spec"] and name in workspace["spec"] for name in SHOWN)
    assert json.loads(moved.read_text())["addresses"].keys() == {"report", "workspace"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a run or a project, or --upload FILE"),
        (["nowhere"], "no such run in runs"),
        (["nowhere"], "nor is it the project in W&B of a run there (there are birds)"),
        (["--upload", "nowhere.json"], "there is no such file"),
        (["--upload", "runs/one/status.json"], "no definition of a dashboard"),
    ],
)
def test_what_was_typed_wrongly_is_said_in_a_line(folder, words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_project_that_wandb_does_not_have_yet_is_said_with_the_remedy(folder, server, capsys):
    server.answers["ProjectInternalId"] = {"project": None}
    assert main(["one"]) == 2
    assert "no project me/birds yet; launch/jobs.py sync" in capsys.readouterr().err
    assert server.views() == []


def test_a_run_may_be_named_after_its_settings(folder, server):
    """W&B refuses a workspace of such a name: it takes "=" for an emoji."""
    folder.path.rename(folder.path.with_name("lr=0.1+" + "x" * 150))
    assert main(["lr=0.1+" + "x" * 150]) == 0
    report, workspace = server.views()
    assert workspace["displayName"].startswith("lr-0.1-x")
    assert report["displayName"].startswith("lr=0.1+x")


def test_what_goes_wrong_in_wandb_is_said_and_nothing_is_lost(folder, server, capsys):
    server.answers["UpsertView2"] = {}
    assert main(["one"]) == 1
    assert "W&B has not taken the dashboard (KeyError" in capsys.readouterr().err
    assert (folder.wandb / "dashboard.json").is_file()
