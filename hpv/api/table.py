"""Scores as a table for other programs: CSV or Parquet, a row per sample, block by block."""

from __future__ import annotations

import csv
import errno
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpv.api.scores import Scores
from hpv.base.addresses import is_address
from hpv.base.errors import DataError, InputError, OutputExistsError
from hpv.walking.progress import Progress, Quiet

BLOCK = 65_536
"""Rows that are in memory at once."""
Blocks = Iterator[dict[str, Any]]


def write_table(
    scores: Scores, out: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
) -> list[str]:
    """Write scores to a .csv or .parquet file; the names of its columns.

    ``sample`` is the number of the sample, ``id`` its id where there are ids; every kind has the columns
    ``<tail>/<form>/<statistic>/score``, ``.../alpha`` (empty where the score is 0), ``.../size`` and, where classes
    were looked at, ``.../label`` (-1: the pooled counts). The file is there when it is complete.
    """
    if is_address(os.fspath(out)):
        raise InputError(f"{os.fspath(out)}: tables are written to this machine only; give a path, and copy it there.")
    path = Path(out)
    writers: dict[str, Callable[[Path, list[str], Blocks], None]] = {".csv": _write_csv, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: give a file whose name ends in .csv or .parquet.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputExistsError(f"{path} exists; use another name, or give overwrite=True.")
    names = _columns(scores)
    part = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix.lower()](part, names, _blocks(scores, progress or Quiet()))
        os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"{path}: no space left; free some and run the same command again.") from error
        raise InputError(f"{path} cannot be written: {error.strerror or error}; use another path.") from error
    finally:
        part.unlink(missing_ok=True)
    return names


def _columns(scores: Scores) -> list[str]:
    kept = ["score", "alpha", "size"] + ([] if scores.attributes.get("against") == "pooled" else ["label"])
    first = ["sample"] + ([] if scores.ids is None else ["id"])
    return first + ["/".join((*kind, name)) for kind in scores.kinds for name in kept]


def _blocks(scores: Scores, progress: Progress) -> Blocks:
    """Column name -> values of the next samples."""
    ids, names = scores.ids, _columns(scores)
    progress.start("export", scores.samples)
    for start in range(0, scores.samples, BLOCK):
        rows = slice(start, min(start + BLOCK, scores.samples))
        block: dict[str, Any] = {"sample": np.arange(rows.start, rows.stop)}
        if ids is not None:
            block["id"] = ids[rows]
        for name in names:
            if "/" in name:
                tail, form, statistic, array = name.split("/")
                block[name] = scores.column(tail, form, statistic, array).read((rows,))
        yield block
        progress.advance(rows.stop - rows.start)


def _write_csv(path: Path, names: list[str], blocks: Blocks) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for block in blocks:
            writer.writerows(zip(*(_cells(block[name]) for name in names), strict=True))


def _cells(values: Any) -> list[Any]:
    """As Python objects, NaN as nothing."""
    cells = values if isinstance(values, list) else values.tolist()
    return ["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells]


def _write_parquet(path: Path, names: list[str], blocks: Blocks) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path.with_suffix('')}: Parquet needs pyarrow, which is not installed: pip install 'hpv[parquet]', "
            "or export to .csv."
        ) from None
    writer = None
    try:
        for block in blocks:
            made = pyarrow.table({name: pyarrow.array(block[name], from_pandas=True) for name in names})
            writer = writer or pyarrow.parquet.ParquetWriter(path, made.schema)
            writer.write_table(made)
    finally:
        if writer is not None:
            writer.close()
