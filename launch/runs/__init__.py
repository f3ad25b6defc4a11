"""Runs as the commands meet them: folders, what is known of each, starting and ending them."""
