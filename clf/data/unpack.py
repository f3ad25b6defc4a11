"""Write the images of Parquet files to files of their own, with a list of each split for
data=annotations, where they are too many to be held in memory.

python -m clf.data.unpack ROOT FOLDER IMAGE_COLUMN LABEL_COLUMN
"""

import json
import sys
from pathlib import Path

from clf.data import lists, parquet

ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}  # the rest is known by its content


def unpack(root: Path, folder: Path, image: str, label: str) -> int:
    """The number of images written: FOLDER/train/0000000.jpg and FOLDER/train.jsonl, and likewise
    for the other splits.

    Raises:
        ValueError: the folder is there already, a file cannot be read, or an image is not in it
    """
    if folder.exists():
        raise ValueError(f"{folder} is there already; name a new folder, or delete it")
    count = 0
    files = lists.list_files(root)
    if not any(parquet.is_parquet(path) for paths in files.values() for path in paths):
        raise ValueError(f"{root} has no Parquet files of splits, such as train.parquet")
    for split, paths in files.items():
        name, inside = ("annotations", "images") if split == "all" else (split, split)
        (folder / inside).mkdir(parents=True)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for path in filter(parquet.is_parquet, paths):
                for number, record in parquet.records(path, (image, label), ""):
                    content = record.get(image) if isinstance(record, dict) else record
                    if isinstance(record, ValueError) or not isinstance(content, bytes):
                        wrong = content if isinstance(content, ValueError) else "has no image"
                        raise ValueError(f"{path}:{number}: {wrong}")
                    ending = next((ENDINGS[one] for one in ENDINGS if content.startswith(one)), "")
                    place = f"{inside}/{count:07d}{ending}"
                    (folder / place).write_bytes(content)
                    line = {"image": place, "label": record[label]}
                    file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
                    count += 1
    return count


def main(argv: list[str]) -> str | int:
    """What goes wrong, for `sys.exit`, or 0."""
    if len(argv) != 4:
        return "usage: python -m clf.data.unpack ROOT FOLDER IMAGE_COLUMN LABEL_COLUMN"
    root, folder, image, label = argv
    try:
        count = unpack(Path(root), Path(folder), image, label)
    except (ValueError, OSError) as error:
        return str(error)
    print(f"{count} images are in {folder}: --data {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
