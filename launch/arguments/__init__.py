"""The words of each command: what may be typed, and what `--help` says of it.

`parser.py` is common to all commands; each command has a file with its parser and its examples.
These files import nothing of ours at their top except each other, so that `--help` answers at once.
"""
