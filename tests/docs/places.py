"""Where each command of README.md and docs/ is run. A command that has no place fails
test_commands.py, which says what to do."""

import re
import tomllib
from collections.abc import Sequence

from tests.docs.pages import ROOT, Command

HERE = "here"  # tests/docs/test_commands.py types it
SLURM = "on SLURM"  # tests/slurm/test_docs.py types it on the testbed
EXAMPLE = "tests/test_extending.py"  # runs every block of its page
BENCHMARK = "tests/launch/test_benchmark.py"  # runs every section at a tiny size
SETUP = "setup"  # what builds the environment: CI does it, see `setup_fault`

# Commands that other tests run: the test, and a text of it that shows it.
ELSEWHERE = {
    "python launch/benchmark.py loader --vs torchvision,dali,spdl,timm": (
        "tests/launch/test_benchmark.py",
        '"--vs", "torchvision,timm"',
    ),
    "python launch/benchmark.py step --gpu": (
        "tests/launch/test_benchmark_gpu.py",
        '"step", "--gpu"',
    ),
    "python launch/benchmark.py scaling --nodes 1,2,4 --model resnet50": (
        "tests/slurm/test_scaling.py",
        '"--nodes", "1,2"',
    ),
    "python launch/benchmark.py scaling --costs": ("tests/launch/test_scaling.py", '"--costs"'),
    # On images of the run's own classes.
    "python launch/evaluate.py RUN data.root=/my/images --predictions predictions.csv": (
        "tests/test_other_data.py",
        '"data.root=other"',
    ),
    "python launch/report.py --sweep SWEEP": (
        "tests/report/test_comparison_page.py",
        '"--sweep", "rates"',
    ),
    "wandb offline": ("tests/tracking/test_wandb_run.py", 'with_name("wandb"), "offline"'),
    "wandb disabled": ("tests/tracking/test_wandb_run.py", '"wandb/settings", "disabled"'),
    "python launch/jobs.py drill drilled": ("tests/launch/test_drill.py", "print_drill("),
    "python launch/export.py RUN --format onnx,torch_export,torchscript,safetensors": (
        "tests/launch/test_export.py",
        '",".join(FORMATS)',
    ),
    "python launch/export.py RUN --with-resize": ("tests/launch/test_export.py", '"--with-resize"'),
    "python launch/export.py RUN --int8": ("tests/launch/test_export.py", '"--int8"'),
    "python launch/export.py RUN --int8 --format onnx,safetensors": (
        "tests/launch/test_export.py",
        '"--int8"',
    ),
    "python launch/export.py RUN --push OWNER/NAME": ("tests/launch/test_export.py", '"--push"'),
    "python launch/dashboard.py NAME": ("tests/tracking/test_dashboard.py", 'main(["one"])'),
    "python launch/dashboard.py birds": ("tests/tracking/test_dashboard.py", '"team/birds"'),
    "python launch/dashboard.py --upload runs/NAME/wandb/dashboard.json": (
        "tests/tracking/test_dashboard.py",
        '"--upload", str(file)',
    ),
    "hf auth login": ("launch/export.py", "hf auth login"),
    "python -m tests.slurm.testbed status": ("tests/slurm/test_testbed.py", '"status"'),
    "python -m tests.slurm.testbed down": ("tests/slurm/test_testbed.py", '"down"'),
    # Refused, as the row of the table says.
    "torchrun launch/train.py": ("tests/real_world/test_left_over.py", "TORCHELASTIC_RUN_ID"),
    "srun -n4 python launch/train.py": ("tests/slurm/test_submitting.py", "launch/train.py"),
    "sbatch --test-only": ("slurm/preflight.py", "--test-only"),
    "python launch/check_data.py /my/images --run NAME": (
        "tests/real_world/test_label_errors.py",
        '"--run", *runs',
    ),
    "python launch/check_data.py /my/images --run folds --fix-list bad.txt --suspects": (
        "tests/real_world/test_label_errors.py",
        '"--suspects"',
    ),
    "clf --help": ("tests/launch/test_installed.py", '"--help"'),
    "clf --version": ("tests/launch/test_installed.py", '"--version"'),
    "clf completion bash > ~/.local/share/bash-completion/completions/clf": (
        "tests/launch/test_installed.py",
        '"completion", "bash"',
    ),
    "clf completion zsh > ~/.zfunc/_clf": ("tests/launch/test_installed.py", '"zsh"'),
    "clf completion fish > ~/.config/fish/completions/clf.fish": (
        "tests/launch/test_installed.py",
        '"fish"',
    ),
    # Where there is an engine; what they build is compared by tests/slurm/test_container.py.
    "docker build -t clf .": (".ci/run", "docker build -t clf ."),
    'docker run --rm --init --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/work" '
    "-v /my/images:/my/images:ro clf train --data /my/images": (
        ".ci/run",
        "docker run --rm --init clf train",
    ),
    "apptainer build clf.sif apptainer.def": (".ci/run", "apptainer.def"),
    "wandb login": ("clf/tracking/wandb_key.py", "wandb login"),
    "wandb sync": ("launch/terminal/summary.py", "wandb sync"),
}
# What targets of the Makefile run that CI does not make: a command of docs/first-run.md, and what
# tests/slurm/test_testbed.py does.
RECIPES = {
    "demo": "python launch/submit.py --nodes 1 --model resnet18",
    "testbed": "python -m tests.slurm.testbed up",
    "chaos": "python -m tests.chaos",
}
# Placeholders alone, which stand for commands that are run.
PATTERNS = ("python NAME.py", "python /path/to/clf/launch/submit.py")
CLUSTER_FLAGS = (
    "--slurm",
    "--partition",
    "--time",
    "--gpus 2",
    "--gpus 4",
    "--follow",
    "--parallel",
)


def bare(command: Command) -> str:
    return command.text.removesuffix(" ...")


def place(command: Command) -> str | None:
    """Where it is run; a file of the repository, or one of the words above."""
    text = bare(command)
    if text in ELSEWHERE:
        return ELSEWHERE[text][0]
    if command.page == "docs/extending.md" and text not in PATTERNS:
        return EXAMPLE
    if text in PATTERNS or re.match(r"(make|pip install|\. )", text):
        return SETUP
    if re.match(r"(sbatch|salloc|cat slurm-|python launch/jobs\.py) ?", text):
        return SLURM
    if re.match(r"python launch/submit\.py", text) and needs_slurm(text):
        return SLURM
    if re.match(r"python launch/benchmark\.py (?!scaling)", text):
        return BENCHMARK
    return HERE if re.match(r"python launch/\w+\.py", text) else None


def needs_slurm(text: str) -> bool:
    nodes = re.search(r"--nodes[ =](\d+)", text)
    return any(flag in text for flag in CLUSTER_FLAGS) or (nodes is not None and nodes[1] != "1")


def setup_fault(text: str) -> str:
    """What is wrong with a command that builds the environment; "" if nothing is."""
    if text in PATTERNS or text == ". .venv/bin/activate":
        return ""
    if text.startswith("make "):
        faults = (make_fault(word) for word in text.split()[1:] if "=" not in word)
        return next((fault for fault in faults if fault), "")
    return pip_fault(text.split()[2:])


def make_fault(target: str) -> str:
    """A target that the Makefile lacks, or one that neither CI makes nor a test runs."""
    makefile = (ROOT / "Makefile").read_text()
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", makefile, re.M)
    if rule is None:
        return f"the Makefile has no target {target}"
    if target in RECIPES:
        return "" if RECIPES[target] in rule[1] else f"{target} does not run {RECIPES[target]}"
    made = re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(), re.M)
    made += [
        one for name in made for one in re.findall(rf"^{name}: (.*)", makefile, re.M)[0].split()
    ]
    is_made = target in made or (target == "env" and "$(READY)" in made)
    return "" if is_made else f"neither .ci/run makes {target}, nor does RECIPES name its command"


def pip_fault(words: Sequence[str]) -> str:
    """An extra that pyproject.toml lacks, or a package that requirements.lock, from which CI
    installs, lacks."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    locked = (ROOT / "requirements.lock").read_text()
    for word in words:
        if word.startswith("-") or word.endswith(".lock"):
            continue
        name, _, extra = word.strip("'\"").rstrip("]").partition("[")
        if name in (".", "clf"):
            missing = [one for one in extra.split(",") if one and one not in extras]
            if missing:
                return f"pyproject.toml has no extra {missing[0]}"
        elif not re.search(rf"^{re.escape(name)}==", locked, re.M):
            return f"requirements.lock has no {name}"
    return ""
