"""One writer per output: held by the kernel so that it ends with the process, or by an object that must be renewed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from hpv.base.errors import DataError, OutputExistsError, warn
from hpv.places.remote import PlaceError, RemoteStore

LOCK = ".lock"
"""The file that a writing run holds locked, or what the names of its objects begin with; a complete store has none."""
EXPIRY_SECONDS = 60.0
"""A lock object that is not renewed for so long belongs to a run that is dead."""
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Lock(Protocol):
    """The right to write an output, for one run at a time."""

    def check(self) -> None:
        """``DataError`` if the right is lost."""

    def moved(self, path: Path | str) -> None:
        """The store was put in another place."""

    def release(self, *, remove: bool) -> None:
        """Let go; ``remove``: leave no trace, the store is complete."""


class FileLock:
    """An exclusive lock on an output folder, made if it is not there."""

    def __init__(self, folder: Path, shown: str) -> None:
        """``OutputExistsError`` if another run holds it; ``shown`` is the output's name in messages."""
        self._path = folder / LOCK
        while True:
            folder.mkdir(exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(shown)
                if self._is_current():
                    break
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)
        os.truncate(self._file, 0)
        os.pwrite(self._file, _holder().encode(), 0)

    def _take(self, shown: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 300, 0).decode(errors="replace") or "another run"
            raise OutputExistsError(
                f"{shown} is being written by {holder}; wait for it, or stop it, or use another path."
            ) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            warn(f"{shown}: this file system has no locks; take care that no second run writes to it.")

    def _is_current(self) -> bool:
        """Another run may have finished and removed the file between our opening and locking it."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._file)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def check(self) -> None:
        """See `Lock`: the kernel keeps it."""

    def moved(self, path: Path | str) -> None:
        self._path = Path(path) / LOCK

    def release(self, *, remove: bool) -> None:
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class ObjectLock:
    """An exclusive lock on a prefix of an object store, which can only make an object that is not there yet.

    The lock is the object ``.lock``; it names its holder and until when it is valid, and a thread renews it. When that
    time is over, another run takes it over by making the object ``.lock-ID``, with the ID of the holder that is gone:
    only one can. So the locks form a chain, and the last one counts. A holder that was only asleep finds its successor
    before it writes again. Clocks of machines that write to one store must agree to within half a minute.
    """

    def __init__(self, store: RemoteStore, shown: str) -> None:
        """``OutputExistsError`` if another run holds it; ``shown`` is the output's name in messages."""
        self._store, self._shown, self._id = store, shown, uuid.uuid4().hex
        self._until = 0.0
        self._lost = False
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._names = self._take()
        threading.Thread(target=self._keep, name="hpv-lock", daemon=True).start()

    def check(self) -> None:
        """See `Lock`; also finds out whether another run took over while this one slept."""
        if time.time() > self._until:
            self._renew()
        if self._lost:
            raise DataError(
                f"{self._shown}: this run was not heard of for {EXPIRY_SECONDS:.0f} seconds, and another one has taken "
                "over its work; wait for that one."
            )

    def moved(self, path: Path | str) -> None:
        """See `Lock`: objects are copied, the lock stays."""

    def release(self, *, remove: bool) -> None:
        """See `Lock`: a lock that nobody holds is not kept. Where it cannot be removed, it expires."""
        with self._renewing, suppress(PlaceError):
            self._ended.set()
            if not self._lost:
                # Without its beginning the chain is gone for others at once; the rest is named as no other will be.
                for name in self._names:
                    self._store.remove([name])

    def _take(self) -> list[str]:
        """Names of the chain up to our own lock."""
        while True:
            names, last = self._chain()
            if last is not None and last["id"] == self._id:  # made, though the answer was lost and the call repeated
                return names[:-1]
            if last is not None and last["until"] > time.time():
                until = time.strftime("%H:%M:%S UTC", time.gmtime(last["until"]))
                raise OutputExistsError(
                    f"{self._shown} is being written by {last['holder']}, which holds it until {until} and renews that "
                    "while it lives; wait for it, or stop it, or use another path."
                )
            # A server that knows no conditions would let two runs make it: the second one is seen here, most likely.
            if self._create(names[-1]) and self._is_ours(names[-1]):
                return names

    def _chain(self) -> tuple[list[str], dict[str, Any] | None]:
        """Names of the locks there are and of the one that may be made, and the content of the last one there is."""
        names, last = [LOCK], None
        while (content := self._store.read(names[-1])) is not None:
            last = json.loads(content)
            names.append(f"{LOCK}-{last['id']}")
        return names, last

    def _create(self, name: str) -> bool:
        self._until = until = time.time() + EXPIRY_SECONDS
        try:
            return self._store.create(name, self._content(until))
        except NotImplementedError:
            warn(
                f"{self._shown}: this server cannot lock (no conditional writes); take care that no second run writes "
                "to it."
            )
            self._store.write(name, self._content(until))
            return True

    def _content(self, until: float) -> bytes:
        return json.dumps({"id": self._id, "holder": _holder(), "until": until}).encode()

    def _is_ours(self, name: str) -> bool:
        found = self._store.read(name)
        return found is not None and json.loads(found)["id"] == self._id

    def _keep(self) -> None:
        while not self._ended.wait(EXPIRY_SECONDS / 4):
            with suppress(PlaceError):  # the next time may go better; if not, ``check`` says so
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self._ended.is_set() or self._lost:
                return
            own, until = self._names[-1], time.time() + EXPIRY_SECONDS
            if not self._is_ours(own):
                self._lost = True
                return
            self._store.write(own, self._content(until))
            self._lost = self._store.read(f"{LOCK}-{self._id}") is not None
            self._until = until


def _holder() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
