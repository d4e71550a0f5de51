"""``hpv slurm``: a script of two jobs, the array of shards and the merger after it, for the user to edit and submit."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpv.activations.layers import Activations
from hpv.backends.choosing import check_name
from hpv.base.errors import InputError
from hpv.base.words import MIB
from hpv.cli.commands.prepared import prepared_fit, prepared_score
from hpv.cli.terminal import Terminal
from hpv.walking.plan import Plan
from hpv.walking.shards import cut_shard

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
    backend: str
    """Of the nodes; the one where this script is printed need not have it."""

    def check(self, source: Activations) -> None:
        """Refuse what every shard would refuse."""
        check_name(self.backend)
        if self.shards < 1:
            raise InputError(f"--shards {self.shards}: give a whole number from 1 on.")
        cut_shard(source, f"1/{self.shards}")


def fit(terminal: Terminal, *, given: Sequence[str], out: str, shards: int, time: str, partition: str | None,
        memory: str | None, threads: int | None, backend: str, **options: Any) -> None:  # fmt: skip
    """``hpv slurm fit``."""
    array = Array(given, out, shards, time, partition, backend)
    job = prepared_fit(memory=memory or MEMORY, threads=threads or CPUS, backend="cpu", **options)
    array.check(job.source)
    _show(terminal, "fit", array, job.plan, memory, STATES * job.plan.bytes_written)


def score(terminal: Terminal, *, given: Sequence[str], out: str, shards: int, time: str, partition: str | None,
          background: str, memory: str | None, threads: int | None, backend: str,
          **options: Any) -> None:  # fmt: skip
    """``hpv slurm score``."""
    array = Array(given, out, shards, time, partition, backend)
    job = prepared_score(background, memory=memory or MEMORY, threads=threads or CPUS, backend="cpu", **options)
    array.check(job.source)
    _show(terminal, "score", array, job.plan, memory)


def _show(terminal: Terminal, command: str, array: Array, plan: Plan, memory: str | None, least: int = 0) -> None:
    """Print the script, or with --json its parts as well."""
    needed = max(plan.memory + plan.memory // MARGIN, least) + IMPORTS
    mem = -(-needed // STEP) * STEP // MIB
    # Threads follow from --cpus-per-task, so that there is one place to change them.
    run, merge = [command, *array.given, *([] if memory else ["--memory", MEMORY])], ["merge", array.out]
    hpv = [sys.executable, "-m", "hpv"]
    script = TEMPLATE.format(
        title=f"hpv {command}", command=command, shards=array.shards, cpus=plan.threads, mem=mem, time=array.time,
        partition=f"#SBATCH --partition={array.partition}\n" if array.partition else "##SBATCH --partition=NAME\n",
        gpu="--gres=gpu:1 " if array.backend == "cuda" else "",
        chdir=_quoted(os.getcwd()), folder=shlex.quote(os.getcwd()), logs=LOGS, memory=memory or MEMORY,
        hpv=shlex.join(hpv), run=shlex.join(run), merge=shlex.join(merge),
    )  # fmt: skip
    document = {
        "command": "slurm",
        "script": script,
        "array": f"1-{array.shards}",
        "cpus": plan.threads,
        "mem": f"{mem}M",
        "gpus": int(array.backend == "cuda"),
        "time": array.time,
        "run": [*hpv, *run, "--shard", f"I/{array.shards}"],
        "merge": [*hpv, *merge],
    }
    terminal.result(document, script.rstrip("\n"))


def _quoted(path: str) -> str:
    """As sbatch reads it; not in a shell."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(path) & set(" \"'\\#") else path
