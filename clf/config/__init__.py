"""What a run is, and how it is said: every setting, the YAML files, `key=value`, and their faults.

From the bottom up, each file knowing only those before it:

faults      ConfigError, and how a fault is worded
schema      every setting with its type, default, unit and limits: RunConfig
registry    @register: classes and functions that a setting names, with settings of their own
assign      settings laid one by one into the schema
overrides   `key=value` texts
rules       which values do not go together
compose     YAML files and overrides -> RunConfig

Imports no torch.
"""

from clf.config.faults import ConfigError
from clf.config.registry import register
from clf.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    SlurmConfig,
    StrategyConfig,
    TrackingConfig,
)

__all__ = [
    "AugmentConfig",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "RunConfig",
    "SlurmConfig",
    "StrategyConfig",
    "TrackingConfig",
    "register",
]
