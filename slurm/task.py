"""The entry of a job's tasks where the run folder has a % in its name.

python -m slurm.task LOGS
"""

from slurm.submitit_adapter import run_task

if __name__ == "__main__":
    run_task()
