"""Commands that people run. They parse flags, print and delegate; no torch at import."""
