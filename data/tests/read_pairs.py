"""Prints every row of a pair set as a line of JSON, read with pyarrow alone.

usage: read_pairs.py PAIRS
"""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc


def main(folder: Path) -> None:
    for shard in sorted(folder.glob("*.arrow")):
        with pa.memory_map(str(shard)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        space = json.loads(table.schema.metadata[b"space.json"])
        for row in table.to_pylist():
            row["vector"] = [float(number) for number in row["vector"]]
            print(json.dumps({**row, "space": space}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
