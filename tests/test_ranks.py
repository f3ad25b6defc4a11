"""What several ranks must agree on, with real processes over gloo; started once for all cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from clf.batch import PADDING
from clf.metrics import ClassificationMetrics
from clf.parallel import average_batchnorm

WORLD = 2
CASES = [(1, 2), (5, 3), (64, 10), (97, 43)]  # (images, classes); with 1 image a rank is empty


def logits_and_labels(total: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(total)
    logits = torch.randn(total, classes, generator=generator)
    return logits, torch.randint(classes, (total,), generator=generator)


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    found: dict = {"metrics": []}
    for total, classes in CASES:
        logits, labels = logits_and_labels(total, classes)
        mine = slice(rank, None, WORLD)
        metrics = ClassificationMetrics(classes, 1, num_nodes=WORLD, node_rank=rank)
        if len(labels[mine]):
            loss = F.cross_entropy(logits[mine], labels[mine], reduction="sum")
            metrics.update(logits[mine], labels[mine], loss, torch.tensor(len(labels[mine])))
        else:
            padding = torch.full((4,), PADDING)
            metrics.update(torch.zeros(4, classes), padding, torch.tensor(0.0), torch.tensor(0.0))
        result = metrics.compute()
        found["metrics"].append({name: value.tolist() for name, value in result.items()})
    norm = nn.Sequential(nn.BatchNorm1d(3))
    norm(torch.full((4, 3), float(rank)))
    found["before"] = norm[0].running_mean.tolist()
    average_batchnorm(norm)
    found["after"] = norm[0].running_mean.tolist()
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, args=(str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_rank_has_the_numbers_of_all_images(ranks, case):
    total, classes = CASES[case]
    logits, labels = (tensor.numpy() for tensor in logits_and_labels(total, classes))
    right = logits.argmax(1) == labels
    z = logits.astype(np.float64)
    losses = np.log(np.exp(z).sum(1)) - z[np.arange(total), labels]
    for found in ranks:
        result = found["metrics"][case]
        support, correct = np.array(result["support_NC"]), np.array(result["correct_NC"])
        np.testing.assert_array_equal(support.sum(0), np.bincount(labels, minlength=classes))
        np.testing.assert_array_equal(correct.sum(0), np.bincount(labels[right], minlength=classes))
        for node in range(WORLD):
            mine = labels[node::WORLD]
            np.testing.assert_array_equal(support[node], np.bincount(mine, minlength=classes))
        assert result["acc_top1"] == right.mean()
        assert result["loss"] == pytest.approx(losses.mean(), abs=1e-6)


def test_ranks_take_the_mean_of_their_batchnorm_statistics(ranks):
    assert ranks[0]["before"] != ranks[1]["before"]
    mean = (np.array(ranks[0]["before"]) + np.array(ranks[1]["before"])) / 2
    for found in ranks:
        np.testing.assert_allclose(found["after"], mean, atol=1e-7)
