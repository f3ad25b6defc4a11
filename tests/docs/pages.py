"""What README.md and the pages of docs/ tell their reader: the commands to type with what they
print, the settings, and the files."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = "docs/settings.md"
SHELL = ("bash", "sh", "console")
# A line that begins so is a command wherever it stands, and so is a whole `code span`.
PROGRAMS = (
    *("python", "python3", "make", "pip", "clf", "docker", "apptainer", "mkdocs", "wandb"),
    *("sbatch", "salloc", "srun", "torchrun", "huggingface-cli", "hf", "uv"),
)
COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)}) \S")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int  # of its first line of text, from 1
    language: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    page: str
    line: int
    text: str  # without a comment behind it
    shown: tuple[str, ...] = ()  # the lines that the page shows below it

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        start, lines = 0, page.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, 1):
            if not line.lstrip().startswith("```"):
                continue
            if start:
                opening = lines[start - 1].strip().removeprefix("```").split()
                text = tuple(lines[start : number - 1])
                found.append(Block(name_of(page), start + 1, (opening or [""])[0], text))
            start = 0 if start else number
    return found


def commands() -> list[Command]:
    """All of them, in the order of the pages, also those in a sentence."""
    found = [command for block in blocks() for command in commands_of(block)]
    for page, number, span in spans():
        if COMMAND.match(span):
            found.append(Command(page, number, span))
    order = [name_of(page) for page in PAGES]
    return sorted(found, key=lambda command: (order.index(command.page), command.line))


def commands_of(block: Block) -> list[Command]:
    """In `console`, lines behind `$ `, each with its output; in `bash`, every line; in any other
    block that is no program, lines that begin as a command."""
    if block.language in ("python", "yaml", "dockerfile", "Dockerfile"):
        return []
    found: list[Command] = []
    lines = joined(block)
    for number, line in lines:
        if block.language == "console" and not line.startswith("$ "):
            if found and line.strip():
                last = found.pop()
                found.append(Command(last.page, last.line, last.text, (*last.shown, line)))
            continue
        text = without_comment(line.removeprefix("$ "))
        if text and (block.language in SHELL or COMMAND.match(text)):
            found.append(Command(block.page, number, text))
    return found


def joined(block: Block) -> list[tuple[int, str]]:
    """The lines with their numbers; those that end in a backslash with the next one."""
    found: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(block.lines, block.line):
        if goes_on:
            first, before = found.pop()
            found.append((first, f"{before[:-1].rstrip()} {line.strip()}"))
        else:
            found.append((number, line))
        goes_on = found[-1][1].endswith("\\")
    return found


def without_comment(line: str) -> str:
    return "" if line.startswith("#") else re.sub(r"\s+# .*$", "", line).strip()


def prose() -> list[tuple[str, int, str]]:
    """Page, number and text of each line outside of fenced blocks."""
    found = []
    for page in PAGES:
        inside = False
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            if line.lstrip().startswith("```"):
                inside = not inside
            elif not inside:
                found.append((name_of(page), number, line))
    return found


def spans() -> list[tuple[str, int, str]]:
    """Page, line and text of each `code span`, but for those of the page that is generated."""
    return [
        (page, number, span)
        for page, number, line in prose()
        if page != GENERATED
        for span in re.findall(r"`([^`]+)`", line)
    ]
