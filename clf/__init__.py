"""Train image classifiers on one device or many nodes. Start reading at `clf/run.py`."""
