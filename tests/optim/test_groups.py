"""Which weights share a learning rate and a weight decay."""

from torch import nn

from clf.optim.groups import parameter_groups


def test_biases_and_norms_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, kept = parameter_groups(network, 0.05)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert decayed["weight_decay"] == 0.05
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,), (2,)]
    assert kept["weight_decay"] == 0.0
