"""Kill hpv at random moments and let it go on, again and again: in the end the same bits as if nothing had happened.

    python tests/support/crash.py [--store-bytes 2e9] [--kills 20] [--command fit=5] [--memory 512MiB]
                                  [--folder DIR] [--seed 0]

makes an activation store of that size, then runs the commands capture, fit, score and merge as processes of their own,
each once undisturbed and then until it was killed (SIGKILL) so many times, always continued by the same command. It
takes about (kills / 3 + 3) times as long as all four commands. Exit code 1 and a message if anything differs.

tests/whole/test_kills.py has it done with small data and settings, by children of one process with everything loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpv.base import keeping

ROOT = Path(__file__).resolve().parents[2]
NETWORK = """
import torch

def load(samples={samples}, seed=1):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, {nodes}), torch.nn.ReLU(), torch.nn.Linear({nodes}, 3))
    inputs = torch.randn(samples, 64, generator=torch.Generator().manual_seed(seed))
    return model, inputs.split({batch}), [f"input {{number}}" for number in range(samples)]

def load_others():
    return load({samples} // 8, 2)
"""
SMALL = (400, 128, 40)
"""Samples, nodes, and samples of a batch."""
COMMANDS = ("capture", "fit", "score", "merge")
Start = Callable[[Sequence[str]], int]
"""Starts ``hpv`` with these arguments; the number of the process."""


class Different(Exception):
    """A run that was killed did not end as one that was not."""


@dataclass
class Report:
    """What became of a command."""

    command: str
    seconds: float
    """Of the undisturbed run, from the moment on when its output appeared."""
    kills: int = 0
    early: int = 0
    """Kills before there was an output."""
    late: int = 0
    """Kills after the output was complete."""
    rounds: int = 0
    """Outputs that were begun, killed on the way, and completed."""
    marks: list[dict[str, int]] = field(default_factory=list)
    """What was noted as done after each kill on the way."""

    def __str__(self) -> str:
        return (
            f"{self.command}: {self.seconds:.2f} s of work; killed {self.kills} times ({self.early} before there was "
            f"an output, {self.late} after it was complete), completed {self.rounds} times, always the same bits"
        )


class Torment:
    """Runs, kills and continues commands in one folder."""

    threads = 2

    def __init__(
        self, folder: Path, start: Start, can_open: Callable[[Path], bool], seed: int, memory: str = "256MiB"
    ) -> None:
        self.folder, self.start, self.can_open, self.memory = folder, start, can_open, memory
        self.random = random.Random(seed)

    def prepare(self, samples: int, nodes: int, batch: int) -> None:
        """What the commands read."""
        text = NETWORK.format(samples=samples, nodes=nodes, batch=batch)
        (self.folder / "network.py").write_text(text)
        self.run([*self.arguments("capture"), "-o", self.at("activations")])
        self.run(["capture", f"{self.at('network.py')}:load_others", "--layer", "[01]", "-o", self.at("others")])
        self.run([*self.arguments("fit"), "-o", self.at("background")])
        edges = ["--by-class", "--edges", self.at("background")]
        self.run(["fit", self.at("others"), *edges, *self.limits, "-o", self.at("part")])

    def arguments(self, command: str) -> list[str]:
        """All but the output."""
        limits = self.limits
        return {
            "capture": ["capture", f"{self.at('network.py')}:load", "--layer", "[01]"],
            "fit": ["fit", self.at("activations"), "--by-class", *limits],
            "score": ["score", self.at("background"), self.at("activations"), "--tail", "two-sided", *limits],
            "merge": ["merge", self.at("background"), self.at("part")],
        }[command]

    @property
    def limits(self) -> list[str]:
        return ["--threads", str(self.threads), "--memory", self.memory]

    def at(self, name: str) -> str:
        return str(self.folder / name)

    def run(self, arguments: list[str]) -> None:
        """To its end."""
        code = wait(self.start(arguments))
        if code:
            raise Different(f"hpv {' '.join(arguments)} ended with {code}")

    def torment(self, command: str, kills: int) -> Report:
        """Kill a command so many times; it is begun again where it completed before that."""
        arguments = self.arguments(command)
        self.run([*arguments, "-o", self.at("undisturbed")])  # what must be compiled is compiled after this
        shutil.rmtree(self.folder / "undisturbed")
        begun, seconds = self.time([*arguments, "-o", self.at("undisturbed")])
        wanted, report = contents(self.folder / "undisturbed"), Report(command, seconds)
        out = self.folder / "tormented"
        while report.kills < kills or out.exists():
            process, moment = self.start([*arguments, "-o", str(out)]), None
            if report.kills < kills:
                # More often early than late: a run that goes on has less to do than a whole one.
                moment = begun + seconds * self.random.random() ** 2
            code = wait(process, moment)
            if code == -signal.SIGKILL:
                report.kills += 1
                late = report.late
                self.check_killed(out, wanted, report)
                if command != "merge" and report.late == late and not report.marks[-1]:
                    seconds *= 1.1  # nothing was noted yet: the machine is slower than when it was timed
            elif code:
                raise Different(f"hpv {' '.join(arguments)} ended with {code} after {report.kills} kills")
            else:
                if moment is not None:
                    seconds *= 0.9  # it was done before it was killed: the machine is faster than when it was timed
                self.check_same(out, wanted)
                shutil.rmtree(out)
                report.rounds += 1
                report.marks.append({})
        shutil.rmtree(self.folder / "undisturbed")
        return report

    def time(self, arguments: list[str]) -> tuple[float, float]:
        """Seconds until there is an output, and from then on."""
        start = time.monotonic()
        process, out = self.start(arguments), Path(arguments[-1])
        while not out.exists() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(0.001)
        begun = time.monotonic()
        if wait(process):
            raise Different(f"hpv {' '.join(arguments)} failed")
        return begun - start, time.monotonic() - begun

    def check_killed(self, out: Path, wanted: dict[str, Any], report: Report) -> None:
        """What is left opens only if it is complete, and holds all that was noted after the last kill."""
        header = attributes(out)
        if header.get("complete"):
            report.late += 1
            shutil.rmtree(out / "progress", ignore_errors=True)  # no part of it, removed last
            self.check_same(out, wanted)
            return
        if self.can_open(out):
            raise Different(f"{out} is incomplete, and opens")
        report.early += not header
        mark, before = done(header.get("progress", {})), report.marks[-1] if report.marks else {}
        if any(mark.get(name, 0) < amount for name, amount in before.items()):
            raise Different(f"after a kill {before} was done, after the next one {mark}")
        report.marks.append(mark)

    def check_same(self, out: Path, wanted: dict[str, Any]) -> None:
        if not self.can_open(out):
            raise Different(f"{out} is complete, and does not open")
        found = contents(out)
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        if different:
            raise Different(f"{out}: {', '.join(different[:5])} differ from those of a run that was not killed")


def wait(process: int, moment: float | None = None) -> int:
    """The exit code of a process; it is killed after so many seconds, if it has not ended by then."""
    end = time.monotonic() + (moment or 0)
    while moment is not None:
        left = end - time.monotonic()
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
            break
        if left <= 0:
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(min(left, 0.02))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def attributes(out: Path) -> dict[str, Any]:
    """Of the root; empty where nothing is."""
    try:
        found: dict[str, Any] = json.loads((out / "zarr.json").read_bytes())["attributes"]
    except FileNotFoundError:
        return {}
    return found


def done(progress: dict[str, Any]) -> dict[str, int]:
    """What is noted as done, in numbers that only grow."""
    found = {name: progress[name] for name in ("samples", "stored", "parts") if name in progress}
    found |= {f"edges of {layer}": noted["nodes"] for layer, noted in progress.get("edges", {}).items()}
    states = progress.get("states", {}).items()
    return found | {f"counts of {layer}": (noted["tile"] << 40) + noted["samples"] for layer, noted in states}


def contents(out: Path) -> dict[str, Any]:
    """A digest of every file, and the root's attributes less what is drawn for every store."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".lock"]
    found: dict[str, Any] = {}
    for path in files:
        with path.open("rb") as file:
            found[str(path.relative_to(out))] = hashlib.file_digest(file, "blake2b").hexdigest()
    found["zarr.json"] = {**attributes(out), "id": None}
    return found


# --- as processes of their own ---


def spawn(arguments: Sequence[str]) -> int:
    """``python -m hpv``."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    command = [sys.executable, "-m", "hpv", *arguments, "--json"]
    return os.posix_spawn(sys.executable, command, environment, file_actions=quiet)


def can_open(path: Path) -> bool:
    """Whether hpv opens what is there."""
    import hpv

    try:
        hpv.open(path)
    except hpv.StoreError:
        return False
    return True


# --- as children of this process ---


class Rehearsal(Torment):
    """In this process: its children then find everything loaded and compiled."""

    threads = 1

    def run(self, arguments: list[str]) -> None:
        from hpv.cli.main import main

        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            code = main([*arguments, "--json"])
        if code:
            raise Different(f"hpv {' '.join(arguments)} ended with {code}")


def rehearse(folder: Path) -> None:
    """Set sizes and times so that little data has many steps, and leave this process with one thread, to be forked."""
    import torch
    from zarr.core.sync import cleanup_resources

    from hpv.activations import stored as activations
    from hpv.scoring import plan, stored, tallying
    from hpv.walking import candidates

    candidates.SEGMENT = candidates.KEPT_CHUNK = candidates.LARGEST_BLOCK = 1
    plan.SCORE_CHUNK = stored.SCORE_CHUNK = tallying.SCORE_CHUNK = 100
    activations.CHUNK_ROWS, activations._MOST_NODES, activations._CHUNK_BYTES = (64, 128), 64, 1
    keeping.CHECKPOINT_SECONDS = 0.0
    torch.set_num_threads(1)
    rehearsal = Rehearsal(folder, fork, can_open, 0)
    rehearsal.prepare(*SMALL)
    for command in ("score", "merge"):
        rehearsal.run([*rehearsal.arguments(command), "-o", rehearsal.at(command)])
    cleanup_resources()
    for _ in range(100):
        if len(os.listdir("/proc/self/task")) == 1:
            return
        time.sleep(0.05)
    raise RuntimeError("this process has other threads, and cannot be forked")


def fork(arguments: Sequence[str]) -> int:
    """``hpv`` in a child."""
    from hpv.cli.main import main

    return fork_to(lambda: main([*arguments, "--json"]))


def fork_to(work: Callable[[], int]) -> int:
    """Do some work in a child; its number."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = work()
        finally:
            os._exit(code)
    return process


# --- the command ---


def main() -> int:
    """Torment some commands, and tell what became of them."""
    parser = argparse.ArgumentParser("crash.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store-bytes", type=float, default=2e9, help="of the activations")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--command", action="append", metavar="NAME[=KILLS]", help="default: all; may be given again")
    parser.add_argument("--memory", default="512MiB", help="budget of fit and score")
    parser.add_argument("--folder", help="where everything is made, and removed again")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--small", action="store_true", help="little data, in children of one process that is loaded")
    chosen = parser.parse_args()
    unknown = [asked for asked in chosen.command or () if asked.partition("=")[0] not in COMMANDS]
    if unknown:
        parser.error(f"--command {unknown[0]}: give one of {', '.join(COMMANDS)}")
    with tempfile.TemporaryDirectory(prefix="hpv-crash-", dir=chosen.folder) as name:
        folder = Path(name)
        if chosen.small:
            (folder / "rehearsal").mkdir()
            rehearse(folder / "rehearsal")
            torment = Torment(folder, fork, lambda path: not wait(fork_to(lambda: not can_open(path))), chosen.seed)
            torment.prepare(*SMALL)
        else:
            torment, nodes = Torment(folder, spawn, can_open, chosen.seed, chosen.memory), 4096
            torment.prepare(int(chosen.store_bytes / (2 * nodes * 4)), nodes, 256)
        for asked in chosen.command or COMMANDS:
            command, _, kills = asked.partition("=")
            report = torment.torment(command, int(kills or chosen.kills))
            print(json.dumps(asdict(report)) if chosen.small else report, flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if "--small" in sys.argv else {}
    sys.exit(main())
