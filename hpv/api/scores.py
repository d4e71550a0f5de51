"""Scores of every sample, as a user holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpv.api.background import Background
from hpv.backends.choosing import get_backend
from hpv.backends.tables import look_up_of
from hpv.base.errors import InputError, StoreError
from hpv.base.words import quantity
from hpv.fitting.stored import open_background
from hpv.places.names import escape
from hpv.scanning.scored import Scored, sample_number, subset
from hpv.scoring.stored import COLUMNS, folder_of
from hpv.store.arrays import StoredArray
from hpv.store.reading import Store


class Scores:
    """Scores of every sample, opened with `hpv.open` or returned by `hpv.score`.

    >>> import numpy as np, hpv, tempfile
    >>> x = np.random.default_rng(0).normal(size=(100, 5))
    >>> background = hpv.fit(x)
    >>> scores = hpv.score(background, x[:3], tempfile.mkdtemp() + "/scores.zarr", tails="left", forms="subset")
    >>> scores.kinds
    [('left', 'subset', 'berk_jones'), ('left', 'subset', 'higher_criticism')]
    >>> scores.get("left", "subset", "berk_jones").score.shape
    (3,)
    >>> scores.column("left", "subset", "berk_jones", "size").read((slice(0, 2),)).shape
    (2,)
    >>> codes, (pmin, pmax) = scores.codes("activations").read(), scores.pvalues("activations", background, "left")
    >>> codes.shape, codes.dtype, pmax.shape
    ((3, 5), dtype('uint8'), (3, 5))
    >>> list(scores.nodes(0, background, "left", "subset", "berk_jones"))
    ['activations']
    """

    def __init__(self, store: Store, already_complete: bool = False) -> None:
        self._store = store
        self.already_complete = already_complete
        """`hpv.score` found them complete and did nothing."""

    @property
    def path(self) -> str:
        """Of the store."""
        return self._store.path

    @property
    def attributes(self) -> dict[str, Any]:
        """Background fingerprint, grid, settings and so on."""
        return self._store.attributes

    @property
    def samples(self) -> int:
        """That were scored."""
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

    def get(self, tail: str, form: str, statistic: str) -> Scored:
        """Score, alpha, size and label of every sample."""
        self._check(tail, form, statistic)
        return Scored(*(self.column(tail, form, statistic, name).read() for name in COLUMNS))

    def column(self, tail: str, form: str, statistic: str, name: str) -> StoredArray:
        """One of the arrays ``score``, ``alpha``, ``size`` and ``label``, to be read in parts."""
        self._check(tail, form, statistic)
        return self._store.array(folder_of(tail, form, statistic) + name)

    def codes(self, layer: str) -> StoredArray:
        """Codes (samples, nodes) of a layer, to be read in parts; kept unless ``keep`` left them out."""
        if layer not in self.layers:
            raise InputError(f"{self.path}: no layer {layer}; it has {', '.join(self.layers)}.")
        if f"codes/{escape(layer)}" not in self._store:
            raise InputError(f"{self.path}: codes were not kept; score again with keep='codes'.")
        return self._store.array(f"codes/{escape(layer)}")

    def pvalues(self, layer: str, background: Background, tail: str, samples: slice = slice(None)) -> Any:
        """P-value ranges (pmin, pmax) float64 of some samples from their codes: no activations are needed."""
        self.check_background(background)
        rows = range(*samples.indices(self.samples))
        codes = self.codes(layer).read((slice(rows.start, rows.stop), slice(None)))
        backend, pmin, pmax = get_backend("cpu"), np.empty(codes.shape), np.empty(codes.shape)
        tables = look_up_of(background, layer, tail, pmin.dtype, backend)
        backend.look_up_ranges(codes, self.reference(background)[rows.start : rows.stop], tables, (pmin, pmax))
        return pmin, pmax

    def nodes(self, i: int, background: Background, tail: str, form: str, statistic: str) -> dict[str, np.ndarray]:
        """The subset of sample ``i``: for every layer the indices of the nodes with pmax <= alpha, ascending."""
        self.check_background(background)
        i = sample_number(i, self.samples)
        alpha, label = (
            self.column(tail, form, statistic, name).read((slice(i, i + 1),))[0] for name in ("alpha", "label")
        )

        def codes_of(layer: str) -> np.ndarray:
            return self.codes(layer).read((slice(i, i + 1), slice(None)))[0]

        return subset(background, self.layers, codes_of, int(label), tail, float(alpha))

    def reference(self, background: Background) -> np.ndarray:
        """Which counts of the background answered for every sample: 0 the pooled ones, g + 1 those of a large class."""
        if background.classes is None or self.attributes["against"] != "own":
            return np.zeros(self.samples, np.int64)
        return background.reference_of(self._store.array("own").read().astype(np.int64))

    def background(self, path: str | Path | None = None) -> Background:
        """The background that the scores were made with, from where it was then or from ``path``."""
        where = path or self.attributes.get("background_path")
        if where is None:
            raise InputError(f"{self.path}: its background was not a store; give the path of one.")
        try:
            found = Background.of(open_background(where))
        except StoreError as error:
            if path is not None:
                raise
            raise StoreError(
                f"{self.path}: its background is not where it was when it was used: {error} If it was moved, give its "
                "path: hpv top --background PATH, or scores.background(path) in Python."
            ) from None
        self.check_background(found)
        return found

    def check_background(self, background: Background) -> None:
        """Refuse another background than the one these scores were made with."""
        check_fingerprint(background, self.attributes["background"], self.path)

    def _check(self, tail: str, form: str, statistic: str) -> None:
        if (tail, form, statistic) not in self.kinds:
            known = "; ".join(" ".join(kind) for kind in self.kinds)
            raise InputError(f"{self.path}: no scores of {tail} {form} {statistic}; it has {known}.")

    def __repr__(self) -> str:
        kinds = quantity(len(self.kinds), "kind")
        return f"<hpv.Scores of {quantity(self.samples, 'sample')}, {kinds}, in {self.path}>"


def check_fingerprint(background: Background, wanted: str, what: str) -> None:
    """Refuse codes or scores of another background."""
    if background.fingerprint != wanted:
        raise InputError(
            f"{what} was made with another background ({wanted[:12]}, this one is {background.fingerprint[:12]}): "
            "score again, or open the background it names."
        )
