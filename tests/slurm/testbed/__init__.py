"""A real SLURM on one machine, for tests and for trying things out: 4 nodes, 2 fake GPUs each.

python -m tests.slurm.testbed up | status | down       # or, from Python: Testbed
"""

from tests.slurm.testbed.cluster import Testbed, TestbedError
from tests.slurm.testbed.machine import can_install, install, missing

__all__ = ["Testbed", "TestbedError", "can_install", "install", "missing"]
