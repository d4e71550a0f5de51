"""Scores of every sample, as a user holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpv.api.background import Background
from hpv.backends.choosing import get_backend
from hpv.backends.tables import look_up_of
from hpv.base.errors import InputError, StoreError
from hpv.base.keywords import checks_keywords
from hpv.base.words import Names, quantity
from hpv.fitting.stored import open_background
from hpv.histograms.state import BackgroundState
from hpv.places.names import escape
from hpv.scanning.options import ScanKind, by_tail, choose_kind
from hpv.scanning.scored import Scored, sample_number, subset
from hpv.scoring.stored import COLUMNS, folder_of
from hpv.store.arrays import StoredArray
from hpv.store.reading import Store


class Scores:
    """Scores of every sample, opened with `hpv.open` or returned by `hpv.score`.

    A kind is a (tail, form, statistic). Where ``tail``, ``form`` or ``statistic`` is left out, the default is taken:
    two-sided, subset, higher_criticism, or the first that was scored; of several names the best that was scored.

    >>> import numpy as np, hpv, tempfile
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> background = hpv.fit(x)
    >>> scores = hpv.score(background, x[:3], tempfile.mkdtemp() + "/scores.zarr", tail="left", form="subset")
    >>> scores.kinds
    [('left', 'subset', 'berk_jones'), ('left', 'subset', 'higher_criticism')]
    >>> scores.get().score.shape, scores.get(statistic="berk_jones").score.shape
    ((3,), (3,))
    >>> scores.column(statistic="berk_jones", name="size").read((slice(0, 2),)).shape
    (2,)
    >>> codes, (pmin, pmax) = scores.codes("activations").read(), scores.pvalues("activations", tail="left")
    >>> codes.shape, codes.dtype, pmax.shape
    ((3, 5), dtype('uint8'), (3, 5))
    >>> list(scores.nodes(0, tail="left"))
    ['activations']
    """

    def __init__(self, store: Store, already_complete: bool = False, background: BackgroundState | None = None) -> None:
        """``background``: the one that they were made with, where it is at hand."""
        self._store = store
        self._background = None if background is None else _with_questions(background)
        self.already_complete = already_complete
        """`hpv.score` found them complete and did nothing."""

    @property
    def path(self) -> str:
        """Path of the store."""
        return self._store.path

    @property
    def attributes(self) -> dict[str, Any]:
        """Background fingerprint, grid, settings and so on."""
        return self._store.attributes

    @property
    def samples(self) -> int:
        """Number of samples that were scored."""
        return int(self.attributes["samples"])

    @property
    def kinds(self) -> list[tuple[str, str, str]]:
        """Every (tail, form, statistic) that was scored."""
        return [(kind[0], kind[1], kind[2]) for kind in self.attributes["kinds"]]

    @property
    def missing(self) -> int:
        """NaN among the values that were scored; they are never significant."""
        return int(self.attributes["missing"])

    @property
    def layers(self) -> list[str]:
        """Layers that were scanned, as one set of nodes."""
        return list(self.attributes["layers"])

    @property
    def ids(self) -> list[str] | None:
        """One string per sample, where the activations had them."""
        return [str(one) for one in self._store.array("ids").read()] if "ids" in self._store else None

    @checks_keywords
    def get(self, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None) -> Scored:
        """Score, alpha, size and label of every sample, of one kind."""
        kind = self._kind(tail, form, statistic)
        return Scored(*(self._column(kind, name).read() for name in COLUMNS))

    @checks_keywords
    def column(
        self,
        tail: Names | None = None,
        form: Names | None = None,
        statistic: Names | None = None,
        name: str = "score",
    ) -> StoredArray:
        """One of the arrays ``score``, ``alpha``, ``size`` and ``label`` of a kind, to be read in parts."""
        if name not in COLUMNS:
            raise InputError(f"name={name!r}: give one of {', '.join(COLUMNS)}.")
        return self._column(self._kind(tail, form, statistic), name)

    def _kind(self, tail: Names | None, form: Names | None, statistic: Names | None) -> ScanKind:
        return choose_kind(self.kinds, tail, form, statistic, self.path)

    def _column(self, kind: ScanKind, name: str) -> StoredArray:
        return self._store.array(folder_of(*kind) + name)

    @checks_keywords
    def codes(self, layer: str) -> StoredArray:
        """Codes (samples, nodes) of a layer, to be read in parts; kept unless ``keep`` left them out."""
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer {layer}; it has {', '.join(self.layers)}.")
        if f"codes/{escape(layer)}" not in self._store:
            raise InputError(f"{self.path}: codes were not kept; score again with keep='codes'.")
        return self._store.array(f"codes/{escape(layer)}")

    @checks_keywords
    def pvalues(self, layer: str, tail: Names = "right", samples: slice = slice(None)) -> Any:
        """P-value ranges (pmin, pmax) float64 of some samples from their codes: no activations are needed.

        Of several tails a mapping from each to its ranges. They come from the `background` of the scores.
        """
        if not isinstance(samples, slice):
            raise InputError(f"samples={samples!r}: give a range of samples, such as slice(3, 4).")
        background, rows = self.background(), range(*samples.indices(self.samples))
        codes = self.codes(layer).read((slice(rows.start, rows.stop), slice(None)))
        reference = self._reference(background, rows)

        def ranges(tail: str) -> tuple[np.ndarray, np.ndarray]:
            backend, pmin, pmax = get_backend("cpu"), np.empty(codes.shape), np.empty(codes.shape)
            tables = look_up_of(background, layer, tail, pmin.dtype, backend)
            backend.look_up_ranges(codes, reference, tables, (pmin, pmax))
            return pmin, pmax

        return by_tail(tail, ranges)

    @checks_keywords
    def nodes(
        self, i: int, tail: Names | None = None, form: Names | None = None, statistic: Names | None = None
    ) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending.

        The kind is that of ``get``. The nodes follow from the codes of the sample and the `background` of the scores.
        """
        kind, i = self._kind(tail, form, statistic), sample_number(i, self.samples)
        alpha, label = (self._column(kind, name).read((slice(i, i + 1),))[0] for name in ("alpha", "label"))

        def codes_of(layer: str) -> np.ndarray:
            return self.codes(layer).read((slice(i, i + 1), slice(None)))[0]

        return subset(self.background(), self.layers, codes_of, int(label), kind[0], float(alpha))

    def _reference(self, background: Background, rows: range) -> np.ndarray:
        """Which counts answered for some of the samples: 0 the pooled ones, g + 1 those of a large class."""
        if background.classes is None or self.attributes["against"] != "own":
            return np.zeros(len(rows), np.int64)
        return background.reference_of(self._store.array("own")[rows.start : rows.stop])

    @checks_keywords
    def background(self, where: str | Path | BackgroundState | None = None) -> Background:
        """The background that the scores were made with: it is opened once, where it was when it was used.

        ``where``: the path that it has now, or the background itself; ``nodes`` and ``pvalues`` take it from there
        afterwards. ``InputError`` where it is another one.

        >>> import numpy as np, hpv, tempfile
        >>> background = hpv.fit(np.random.default_rng(0).normal(size=(100, 5)))
        >>> path = hpv.score(background, np.zeros((2, 5)), tempfile.mkdtemp() + "/scores.zarr").path
        >>> scores = hpv.open(path)  # the background is in no store: the scores cannot find it by themselves
        >>> scores.background(background)
        <hpv.Background of 100 samples; activations: 5 nodes>
        >>> list(scores.nodes(0))
        ['activations']
        """
        if isinstance(where, BackgroundState):
            found = _with_questions(where)
        elif where is None and self._background is not None:
            return self._background
        else:
            found = self._opened(where)
        check_fingerprint(found, self.attributes["background"], self.path)
        self._background = found
        return found

    def _opened(self, path: str | Path | None) -> Background:
        where = path or self.attributes.get("background_path")
        if where is None:
            raise InputError(
                f"{self.path}: its background was not a store; give the path of one, or the background itself: "
                "scores.background(...)."
            )
        try:
            return Background.of(open_background(where))
        except StoreError as error:
            if path is not None:
                raise
            raise StoreError(
                f"{self.path}: its background is not where it was when it was used: {error} If it was moved, give its "
                "path: hpv top --background PATH, or scores.background(path) in Python."
            ) from None

    def __repr__(self) -> str:
        kinds = quantity(len(self.kinds), "kind")
        return f"<hpv.Scores of {quantity(self.samples, 'sample')}, {kinds}, in {self.path}>"


def _with_questions(background: BackgroundState) -> Background:
    """The same one where it is a `Background`: its tables are used again."""
    return background if isinstance(background, Background) else Background.of(background)


def check_fingerprint(background: Background, wanted: str, what: str) -> None:
    """Refuse codes or scores of another background."""
    if background.fingerprint != wanted:
        raise InputError(
            f"{what} was made with another background ({wanted[:12]}, this one is {background.fingerprint[:12]}): "
            "score again, or open the background it names."
        )
