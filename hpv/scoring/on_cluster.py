"""The walk of a score by the workers of a Dask cluster, which write codes where they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpv.activations.labels import PerSample
from hpv.activations.layers import Activations
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import ScanOptions
from hpv.scanning.scored import Scored, join
from hpv.scoring.job import ScoreJob, part_of_score
from hpv.scoring.tallying import Results, WriteCodes, WriteScores, score_by_threads
from hpv.walking.cluster import Cluster, bare, task_ranges
from hpv.walking.progress import Progress, Quiet

if TYPE_CHECKING:
    from distributed import Client, Future


def score_on_cluster(
    client: Client, job: ScoreJob, progress: Progress, write: WriteScores, write_codes: WriteCodes | None, start: int
) -> None:
    """`score_by_threads` by the workers of a cluster; ``write`` is called here, in order of the samples."""
    cluster = Cluster(client, job.source, job.plan.memory, job.backend_name, progress)
    samples, row = job.source.samples, sum(plan.nodes * plan.itemsize for plan in job.plan.layers)
    progress.start(f"score from sample {start:,} on" if start else "score", samples * row)
    progress.skip(start * row)
    height = job.source.chunk_rows
    if write_codes is not None:  # two tasks must not write to the same chunk
        height = max(write_codes.chunk_rows(plan.nodes) for plan in job.plan.layers)
        write_codes = write_codes.at(0, None)
    with cluster.work() as work:
        background = work.hold(job.background)

        def send(rows: slice) -> Future:
            task = _ScoreTask(
                bare(job.source.part(rows)), rows.start, job.source_layers, job.options, job.keep,
                job.reference.part(rows), cluster.memory, write_codes, job.backend_name,
            )  # fmt: skip
            return work.submit("score", task, background)

        for wave in work.waves(task_ranges(start, samples, row, height), send, lambda sent: sent):
            for rows, results, missing in wave.gather(progress, row):
                write(rows, results, missing)


@dataclass(frozen=True)
class _ScoreTask:
    """Scores of a range of samples."""

    source: Activations
    first: int
    source_layers: dict[str, str]
    options: ScanOptions
    keep: tuple[str, ...]
    reference: PerSample
    memory: int
    write_codes: WriteCodes | None
    backend: str

    def __call__(self, background: BackgroundState) -> tuple[slice, Results, int]:
        job = part_of_score(
            background,
            self.source,
            self.source_layers,
            self.options,
            self.keep,
            self.reference,
            self.memory,
            self.backend,
        )
        parts: list[tuple[slice, Results, int]] = []
        keep = None if self.write_codes is None else self.write_codes.at(self.first, background)
        score_by_threads(job, Quiet(), lambda *part: parts.append(part), keep)
        results: Mapping[tuple[str, str, str], Scored] = {
            kind: join([results[kind] for _, results, _ in parts]) for kind in self.options.kinds
        }
        rows = slice(self.first, self.first + self.source.samples)
        return rows, results, sum(missing for _, _, missing in parts)
