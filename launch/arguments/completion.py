"""The words of completion.py."""

from launch.arguments.parser import Parser, parser

SHELLS = {  # shell -> what to type once
    "bash": "clf completion bash > ~/.local/share/bash-completion/completions/clf",
    "zsh": "clf completion zsh > ~/.zfunc/_clf   (a folder of fpath, which compinit reads)",
    "fish": "clf completion fish > ~/.config/fish/completions/clf.fish",
}
EXAMPLES = "".join(f"  {words}\n" for words in SHELLS.values())


def completion_parser() -> Parser:
    command = parser(
        "Write the shell's completion of clf: commands, flags, settings, models, runs.", EXAMPLES
    )
    command.add_argument("shell", choices=[*SHELLS], help="where clf is typed")
    return command
