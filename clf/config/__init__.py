"""What a run is and how a user describes it: settings, YAML files, `key=value`, and their faults.

From the bottom up; each file knows only those above it in this list:

faults        ConfigError, Findings, and how a fault is worded
slurm_words   how SLURM writes times and GPUs
words         values as they are typed or stand in a YAML file, and the text of each
about         what is stated about a setting: meaning, limits, choices
schema        every setting with its type, default, limits and meaning: RunConfig
signatures    the settings that a class or function states itself
source        constants and signatures of installed libraries, read without importing them
networks      the networks of torchvision and timm by name
weights       the weights that these libraries name, and the images that they want
weight_files  what is in a file of weights, read without torch
weight_entries which of its tensors are the network's
entries       what is registered: a class or function, and the settings that it adds
registry      @register: what a setting chooses by name
targets       what a `_target_` may name
build         builds what a setting describes
values        what a single value may be
*_rules       which values do not go together: rules.check puts them in one list
given         one setting as it was given, and its value by the type of the setting
assign        settings laid one by one into the schema
overrides     `key=value` texts
files         the YAML files
recipes       the one file that may hold all settings of a run
compose       files and overrides -> RunConfig
saved         a run's own config.yaml, written and read
describe      the table of all settings
listing       the table of all models

Imports no torch.
"""

from clf.config.faults import ConfigError
from clf.config.registry import register
from clf.config.schema import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    EmaConfig,
    MixConfig,
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
    "MixConfig",
    "EmaConfig",
    "ModelConfig",
    "RunConfig",
    "SlurmConfig",
    "StrategyConfig",
    "TrackingConfig",
    "register",
]
