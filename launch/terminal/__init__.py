"""What the commands print: the run, its progress, its table, its log."""
