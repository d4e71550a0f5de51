"""Stores behind an address: object stores and web servers, through fsspec.

Credentials, endpoints and all other settings are those of fsspec and of the libraries behind it: environment variables
such as ``AWS_ENDPOINT_URL``, AWS profiles, fsspec's configuration files.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _get_loop, sync
from zarr.core.sync import loop as zarrs_loop
from zarr.storage import FsspecStore

from hpv.base.errors import DataError, InputError

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""What has to be installed for a kind of address."""
WRITABLE = ("s3", "s3a", "gs", "gcs", "memory")
"""Kinds of address that outputs may have."""
RETRY_SECONDS = (0.2, 1.0)
"""Waits before a request is repeated."""
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a web server that may be others a moment later."""
_END_SECONDS = 2.0
"""For requests that nobody waits for any more, at the end of the program."""
_AT_ONCE = 32
"""Questions for the existence of objects."""


class PlaceError(OSError, DataError):
    """What an object store or web server did not do; ``strerror`` says why and what to do, in plain words."""

    def __init__(self, address: str, words: str) -> None:
        super().__init__(errno.EIO, words)
        self.address = address

    def __str__(self) -> str:
        return f"{self.address}: {self.strerror}."


class RemoteStore(FsspecStore):
    """A Zarr store behind an address, with errors in plain words and calls for what is no array.

    Anything that fails raises ``PlaceError``; what is not there is no error.
    """

    def __init__(self, address: str, *, read_only: bool = False) -> None:
        """``InputError`` if no library for this kind of address is there."""
        # FsspecStore's own __init__ wants a file system that works in one loop only. This one works in Zarr's loop, for
        # Zarr and for any thread that calls it, and unlike the other kind it closes its connections at the end.
        Store.__init__(self, read_only=read_only)
        self.address = address
        self.fs, self.path = _file_system(address)
        self.allowed_exceptions = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.address, self.read_only)

    def __str__(self) -> str:
        return self.address

    def with_read_only(self, read_only: bool = False) -> RemoteStore:
        return RemoteStore(self.address, read_only=read_only)

    # --- what Zarr calls ---

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """See Zarr; repeated when a web server fails for a moment.

        s3fs and gcsfs repeat by themselves what may pass, fsspec's web client does not.
        """
        for wait in (*RETRY_SECONDS, None):
            try:
                return await super().get(self._quoted(key), prototype, byte_range)
            except Exception as error:
                if wait is None or not _may_pass(error):
                    raise PlaceError(self.address, trouble(error)) from error
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with self._plainly():
            await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        with self._plainly():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._plainly():
            await super().delete_dir(prefix)

    async def exists(self, key: str) -> bool:
        with self._plainly():
            return await super().exists(self._quoted(key))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self._plainly():
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self._plainly():
            async for name in super().list_prefix(prefix):
                yield name

    # --- what hpv calls ---

    @property
    def lists(self) -> bool:
        """Whether it can say what it holds; a web server cannot."""
        return not self._is_web

    def ask(self, key: str, span: tuple[int, int] | None = None) -> Future[np.ndarray | None]:
        """Begin to read an object, or a span of its bytes; None: it is not there."""

        async def answer() -> np.ndarray | None:
            found = await self.get(key, default_buffer_prototype(), RangeByteRequest(*span) if span else None)
            return None if found is None else np.asarray(found.as_numpy_array(), np.uint8)

        return asyncio.run_coroutine_threadsafe(answer(), _get_loop())

    def read(self, key: str) -> bytes | None:
        """An object; None: it is not there."""
        found = self.ask(key).result()
        return None if found is None else found.tobytes()

    def write(self, key: str, content: bytes) -> None:
        """Replace an object at once."""
        self._do(self.fs._pipe_file(self._at(key), content))

    def create(self, key: str, content: bytes) -> bool:
        """Make an object if there is none; whether it was made. ``NotImplementedError`` where nothing can do this."""
        try:
            with self._plainly(FileExistsError, NotImplementedError):
                try:
                    sync(self.fs._pipe_file(self._at(key), content, mode="create"))
                except Exception as error:
                    if _code(error) == "NotImplemented":
                        raise NotImplementedError from error
                    if _code(error) == "ConditionalRequestConflict":  # S3: another one is just being made
                        raise FileExistsError from error
                    raise
        except FileExistsError:
            return False
        return True

    def names(self) -> list[str] | None:
        """Names of what lies at the top; None where nothing can be seen. Raises where there is no such bucket."""
        if not self.lists:
            return None
        with self._plainly():
            try:
                found = sync(self.fs._ls(self.path, detail=False))
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None
        names = [name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != self.path]
        return names or None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object under a group or an array, by key."""
        found = self._do(self.fs._find(self._at(prefix) if prefix else self.path, detail=True))
        return {name[len(self.path) + 1 :]: int(entry.get("size") or 0) for name, entry in found.items()}

    def present(self, keys: Sequence[str]) -> frozenset[str]:
        """Those of the keys that are there, each asked for."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def ask(key: str) -> str | None:
            async with places:
                return key if await self.exists(key) else None

        async def ask_all() -> list[str | None]:
            return await asyncio.gather(*map(ask, keys))

        return frozenset(key for key in sync(ask_all()) if key is not None)

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        if keys:
            self._do(self.fs._rm([self._at(key) for key in keys]))

    def copy(self, keys: Sequence[str], target: RemoteStore) -> None:
        """Copy objects to the same keys of another store of this kind; they do not pass through this machine."""
        if keys:
            self._do(self.fs._copy([self._at(key) for key in keys], [target._at(key) for key in keys]))

    def _do(self, request: Coroutine[Any, Any, Any]) -> Any:
        with self._plainly():
            return sync(request)

    def _plainly(self, *but: type[Exception]) -> AbstractContextManager[None]:
        return _plainly(self.address, *but)

    def _at(self, key: str) -> str:
        return f"{self.path}/{key}"

    @property
    def _is_web(self) -> bool:
        return _protocol(self.address) in ("http", "https")

    def _quoted(self, key: str) -> str:
        """Web servers undo one quoting: a percent sign of a name, as in escaped layers, must survive it."""
        return key.replace("%", "%25") if self._is_web else key


def _again(address: str, read_only: bool) -> RemoteStore:
    return RemoteStore(address, read_only=read_only)


def _protocol(address: str) -> str:
    return re.split("::|://", address, maxsplit=1)[0]


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path in it."""
    import fsspec
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    protocol = _protocol(address)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        step = f": pip install 'hpv[{EXTRAS[protocol]}]'." if protocol in EXTRAS else "."
        said = str(error).rstrip(".")
        raise InputError(f"{address}: a package for such addresses is missing ({said}){step}") from error
    except ValueError as error:
        raise InputError(
            f"{address}: addresses that begin with {protocol}:// are not known; give a path, or an address that "
            "begins with s3://, gs://, http:// or https://."
        ) from error
    # Listings that were kept would hide what other processes did.
    options: dict[str, Any] = {"use_listings_cache": False}
    if EXTRAS.get(protocol) == "gcs":
        options["asynchronous"] = True  # of a loop that it is given, gcsfs says at the end that it was left too early
    elif kind.async_impl:
        options["loop"] = _get_loop()
    if EXTRAS.get(protocol) == "s3":
        # Else s3fs asks for the size of every object before it reads it, to read large ones in parts.
        options["max_concurrency"] = 1
    with _plainly(address):
        found, path = fsspec.core.url_to_fs(address, **options)
    return (found if kind.async_impl else AsyncFileSystemWrapper(found)), path.rstrip("/")


@contextmanager
def _plainly(address: str, *but: type[Exception]) -> Iterator[None]:
    """Whatever a library raises becomes a ``PlaceError``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (PlaceError, *but)):
            raise
        raise PlaceError(address, trouble(error)) from error


def _may_pass(error: Exception) -> bool:
    """Whether the same request to a web server may succeed a moment later."""
    status = getattr(error, "status", None)
    lost = isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith("aiohttp")
    return status in _PASSING if isinstance(status, int) else lost


def trouble(error: BaseException) -> str:
    """What went wrong and what to do, in plain words."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status, said = getattr(error, "status", None), " ".join(str(error).split()) or type(error).__name__
    if _code(error) == "NoSuchBucket":
        return "the bucket does not exist; check its name, or make it first"
    if isinstance(error, FileNotFoundError):
        return f"there is no such bucket or object ({said}); check the name, or make the bucket first"
    if names & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "CredentialRetrievalError"}:
        return (
            f"no credentials ({said}); set them where the other tools for this store look for them: environment "
            "variables, a profile, or fsspec's configuration"
        )
    if isinstance(error, PermissionError) or status in (401, 403) or said.startswith("Forbidden"):
        return f"access denied ({said}); check the credentials and what their owner may do"
    if names & {"ConnectionError", "HTTPClientError", "ClientConnectionError", "TimeoutError", "ServerTimeoutError"}:
        return f"no connection ({said}); check the network and the endpoint"
    return said


def _code(error: BaseException) -> str | None:
    """The code of an error that an S3 server gave."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response.get("Error", {}).get("Code")
    return None


@atexit.register
def _end_requests() -> None:
    """Cancel what is on its way at the end: of several requests Zarr lets go of the others when one fails.

    Else they are taken apart with the interpreter, and each complains.
    """

    async def cancel() -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    if zarrs_loop[0] is not None:
        with suppress(Exception):
            sync(cancel(), timeout=_END_SECONDS)
