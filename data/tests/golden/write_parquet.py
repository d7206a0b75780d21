"""Writes the Parquet files that the tests of the reader read, with pyarrow.

usage: write_parquet.py FOLDER
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = [f"Sentence number {i} of the file, in {'Zürich' if i % 3 else 'Kyōto 京都'}." for i in range(700)]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain = pa.table(
        {
            "id": pa.array(range(len(TEXTS)), pa.int64()),
            "text": pa.array([None if i % 100 == 7 else text for i, text in enumerate(TEXTS)], pa.string()),
            "score": pa.array([i / 7 for i in range(len(TEXTS))], pa.float64()),
        }
    )
    # several row groups, none of which a batch of the reader divides; both kinds of pages; each compression
    for compression, version, dictionary in [
        ("none", "1.0", False),
        ("snappy", "1.0", True),
        ("gzip", "2.0", False),
        ("zstd", "2.0", True),
        ("lz4", "1.0", False),
    ]:
        pq.write_table(
            plain,
            folder / f"{compression}.parquet",
            compression=compression,
            row_group_size=300,
            data_page_version=version,
            use_dictionary=dictionary,
            data_page_size=2048,
        )
    nested = pa.table(
        {
            "texts": pa.array([["one", "two"], [], None, ["three", None, "four"]], pa.list_(pa.string())),
            "meta": pa.array(
                [
                    {"title": "a", "topic": "x"},
                    None,
                    {"title": None, "topic": "x"},
                    {"title": "d", "topic": "y"},
                ],
                pa.struct([("title", pa.string()), ("topic", pa.string())]),
            ),
            "answers": pa.array(
                [[{"text": "yes", "start": 1}], [], [{"text": "no", "start": 2}, {"text": "maybe", "start": 3}], None],
                pa.list_(pa.struct([("text", pa.string()), ("start", pa.int32())])),
            ),
            "large": pa.array(["w", "x", "y", "z"], pa.large_string()),
            "kind": pa.array(["p", "q", "p", "q"]).dictionary_encode(),
            "number": pa.array([1, 2, 3, None], pa.int32()),
            "raw": pa.array([b"good", b"b\xffd", b"fine", None], pa.binary()),
        }
    )
    pq.write_table(nested, folder / "nested.parquet")
    pq.write_table(plain.slice(0, 0), folder / "no_rows.parquet")
    (folder / "VERSIONS").write_text(f"pyarrow {pa.__version__}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
