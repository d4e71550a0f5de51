"""``hpv slurm``: a script of two jobs, the array of shards and the merger after it, for the user to edit and submit."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from hpv.base.errors import InputError
from hpv.base.words import MIB
from hpv.cli import options as o
from hpv.cli.command import Given, command
from hpv.cli.commands.prepared import fit_job, score_job
from hpv.cli.terminal import Terminal

if TYPE_CHECKING:
    from hpv.activations.layers import Activations
    from hpv.fitting.job import FitJob
    from hpv.scoring.job import ScoreJob
    from hpv.walking.plan import Plan

MEMORY, CPUS = "2GiB", 4
"""Where they are not given: a login node says nothing about the nodes of the cluster."""
IMPORTS = 512 * MIB
"""What the imports take, generously."""
MARGIN = 8
"""One part in so many of ``--memory`` is added for what no plan knows: fragmented memory, buffers of the system."""
STATES = 5
"""The merger of a fit holds so many: the sum so far, a part, its fingerprint's copies, or a part and a new sum."""
STEP = 256 * MIB
LOGS = "hpv-logs"
TEMPLATE = r"""#!/bin/bash
# {title} in {shards} shards, and one merger when all are done. Edit it, then submit both jobs: bash THIS_FILE
# Submitted again it continues: what is complete is not done twice.
#SBATCH --job-name=hpv-{command}
#SBATCH --array=1-{shards}
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={mem}M
#SBATCH --time={time}
{partition}##SBATCH --account=NAME
#SBATCH --chdir={chdir}
#SBATCH --output={logs}/%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# --mem: --memory below ({memory}), the imports, and a margin. --signal: seconds before the time limit, to write what is
# done; not TERM, which scancel sends as well.
set -euo pipefail
shards={shards}  # as in --array
hpv=({hpv})

task=${{SLURM_ARRAY_TASK_ID:-submit}}
case $task in
submit) # started with bash
    mkdir -p {folder}/{logs}
    array=$(sbatch --parsable {gpu}"$0")
    sbatch --array=0 --job-name=hpv-merge --dependency="afterok:${{array%%;*}}" --kill-on-invalid-dep=yes "$0"
    exit
    ;;
0) run=("${{hpv[@]}}" {merge}) ;;
*) run=("${{hpv[@]}}" {run} --shard "$task/$shards") ;;
esac

# Compiled code lies on the node. hpv has a thread for each CPU of the task; no library adds threads of its own.
export NUMBA_CACHE_DIR="${{SLURM_TMPDIR:-${{TMPDIR:-/tmp}}}}/hpv-$UID"
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1

"${{run[@]}}" &
child=$!
trap 'kill -TERM "$child"' USR1
status=0
wait "$child" || status=$?
while kill -0 "$child" 2> /dev/null; do # a signal ended the wait, not the work
    status=0
    wait "$child" || status=$?
done
case $status in
75 | 143) scontrol requeue "$SLURM_JOB_ID" ;; # stopped before the time limit: it goes on in another run
esac
exit "$status"
"""


@dataclass(frozen=True)
class Array:
    """What the user asked for besides the command."""

    given: Sequence[str]
    """The command's own arguments, as they were given."""
    out: str
    shards: int
    time: str
    partition: str | None

    def check(self, source: Activations) -> None:
        """Refuse what every shard would refuse."""
        from hpv.walking.shards import cut_shard

        if self.shards < 1:
            raise InputError(f"--shards {self.shards}: give a whole number from 1 on.")
        cut_shard(source, f"1/{self.shards}")


def array_of_jobs(
    given: Given,
    *,
    out: Annotated[str, o.out("Store to write.")],
    shards: o.Shards,
    time: o.Time = "04:00:00",
    partition: o.Partition = None,
) -> Array:
    """The array that these options ask for."""
    ours = ("shards", "time", "partition", "threads", "json")
    return Array([part for name in given if name not in ours for part in given[name]], out, shards, time, partition)


@command(
    "hpv slurm fit activations.zarr -o background.zarr --shards 16 > fit.sh; bash fit.sh",
    array=array_of_jobs, prepare=fit_job,
)  # fmt: skip
def slurm_fit(terminal: Terminal, array: partial[Array], prepare: partial[FitJob]) -> None:
    """Print the script of hpv fit with these options; bash submits it."""
    job = _prepared(array(), prepare)
    _show(terminal, "fit", array(), job.plan, prepare.keywords, STATES * job.plan.bytes_written)


@command(
    "hpv slurm score background.zarr new.zarr -o scores.zarr --shards 16 > score.sh",
    array=array_of_jobs, prepare=score_job,
)  # fmt: skip
def slurm_score(terminal: Terminal, array: partial[Array], prepare: partial[ScoreJob]) -> None:
    """Print the script of hpv score with these options; bash submits it."""
    job = _prepared(array(), prepare)
    _show(terminal, "score", array(), job.plan, prepare.keywords)


def _prepared(array: Array, prepare: partial[Any]) -> Any:
    """The job of all shards, planned here; the node where this script is printed need not have its backend."""
    from hpv.backends.choosing import check_name

    asked = prepare.keywords
    check_name(asked["backend"])
    job = prepare(memory=asked["memory"] or MEMORY, threads=asked["threads"] or CPUS, backend="cpu")
    array.check(job.source)
    return job


def _show(terminal: Terminal, command: str, array: Array, plan: Plan, asked: dict[str, Any], least: int = 0) -> None:
    """Print the script, or with --json its parts as well."""
    memory, on_gpu = asked["memory"], asked["backend"] == "cuda"
    needed = max(plan.memory + plan.memory // MARGIN, least) + IMPORTS
    mem = -(-needed // STEP) * STEP // MIB
    # Threads follow from --cpus-per-task, so that there is one place to change them.
    run, merge = [command, *array.given, *([] if memory else ["--memory", MEMORY])], ["merge", array.out]
    hpv = [sys.executable, "-m", "hpv"]
    script = TEMPLATE.format(
        title=f"hpv {command}", command=command, shards=array.shards, cpus=plan.threads, mem=mem, time=array.time,
        partition=f"#SBATCH --partition={array.partition}\n" if array.partition else "##SBATCH --partition=NAME\n",
        gpu="--gres=gpu:1 " if on_gpu else "",
        chdir=_quoted(os.getcwd()), folder=shlex.quote(os.getcwd()), logs=LOGS, memory=memory or MEMORY,
        hpv=shlex.join(hpv), run=shlex.join(run), merge=shlex.join(merge),
    )  # fmt: skip
    document = {
        "command": "slurm",
        "script": script,
        "array": f"1-{array.shards}",
        "cpus": plan.threads,
        "mem": f"{mem}M",
        "gpus": int(on_gpu),
        "time": array.time,
        "run": [*hpv, *run, "--shard", f"I/{array.shards}"],
        "merge": [*hpv, *merge],
    }
    terminal.result(document, script.rstrip("\n"))


def _quoted(path: str) -> str:
    """As sbatch reads it; not in a shell."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(path) & set(" \"'\\#") else path
