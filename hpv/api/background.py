"""The background, and the questions that it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from hpv.base.errors import InputError
from hpv.base.keywords import checks_keywords
from hpv.base.words import Names
from hpv.fitting import stored
from hpv.histograms import readouts
from hpv.histograms.state import BackgroundState
from hpv.scanning.options import by_tail
from hpv.scanning.scored import ScanResult
from hpv.scoring import in_memory


@dataclass(frozen=True, eq=False, repr=False)
class Background(BackgroundState):
    """What is kept of the normal samples, survivor counts of every node at its edges, and the questions it answers.

    Made by `hpv.fit`, `hpv.merge` and `hpv.open`. ``layers`` maps names to states, ``samples`` counts the samples of
    each class, ``classes`` are their labels (``None``: not fitted by class).
    """

    @classmethod
    def of(cls, state: BackgroundState) -> Self:
        """The same state with its questions; what was worked out of it already comes along."""
        background = cls.__new__(cls)
        background.__dict__.update(state.__dict__)
        return background

    @checks_keywords
    def encode(self, x: Any, out: Any = None, backend: str = "auto") -> Any:
        """Code of every value: the number of the node's edges that it reaches, one byte; 255 for NaN.

        ``x``: activations (samples, nodes) as `hpv.fit` takes them, or a mapping from layer to them (then the result
        is one, too). ``out``: a uint8 array to write to (or a mapping of them). Returns uint8 (samples, nodes), on the
        GPU where the activations are on one. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> background.encode(np.array([[-1.0], [0.0], [60.0], [1000.0]])).ravel()
        array([0, 1, 3, 5], dtype=uint8)
        """
        return in_memory.encode(self, x, out, backend)

    @checks_keywords
    def pvalues(
        self,
        x: Any,
        tail: Names = "right",
        dtype: str = "float32",
        labels: Any = None,
        out: Any = None,
        backend: str = "auto",
    ) -> Any:
        """P-value range of every value: (pmin, pmax), each (samples, nodes).

        The exact empirical p-value range of the value lies inside. float32 is rounded outward, float64 is exact.
        ``tail``: right, left or two-sided; of several a mapping from each to its result (then ``out`` is one, too).
        ``labels``: a class for each sample, whose own counts answer (pooled ones where the class is not fitted or too
        small); without labels the pooled counts answer for all samples, also where there are classes. ``out``: a pair
        of arrays to write to. The result is on the GPU where the activations are on one. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(99.0).reshape(99, 1), edges=[25, 50, 75])
        >>> pmin, pmax = background.pvalues(np.array([[60.0]]), dtype="float64")
        >>> float(pmin[0, 0]), float(pmax[0, 0])
        (0.24, 0.5)
        """
        if not isinstance(tail, str) and out is not None and not isinstance(out, Mapping):
            raise InputError("out: of several tails give a mapping from each to a pair of arrays.")

        def ranges(one: str) -> Any:
            place = out if isinstance(tail, str) or out is None else out.get(one)
            return in_memory.pvalues(self, x, one, dtype, labels, place, backend)

        return by_tail(tail, ranges)

    @checks_keywords
    def scan(
        self,
        x: Any,
        *,
        statistic: Names = "berk_jones",
        tail: Names = "two-sided",
        form: Names = "subset",
        alphas: str = "grid",
        alpha_max: float = 0.5,
        layers: Names | None = None,
        labels: Any = None,
        against: str | None = None,
        backend: str = "auto",
    ) -> ScanResult:
        """Scan score of every sample, and the nodes behind it.

        ``statistic``: berk_jones, higher_criticism or kolmogorov_smirnov. ``tail``: right (large values are
        significant), left (small ones) or two-sided. ``form``: the best ``subset`` of the nodes, or the ``whole``
        sample. Each may be a list: every combination is scanned, see `hpv.ScanResult`.
        ``alphas``: every distinct pmax (``all``) or a ``grid`` of 255 thresholds, whose score never exceeds the exact
        one. ``layers``: some of the background's, by names or by patterns with ``*`` and ``?``. ``against``: the
        sample's ``own`` class (default where there are classes; needs labels), the class with the ``lowest`` score, or
        the ``pooled`` counts. ``backend``: as for `hpv.fit`.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.random.default_rng(0).normal(size=(1000, 50)))
        >>> result = background.scan(np.stack([np.zeros(50), np.full(50, 9.0)]))
        >>> bool(result.score[1] > result.score[0]), int(result.size[1])
        (True, 50)
        >>> background.scan(np.zeros((1, 50)), statistic=["berk_jones", "higher_criticism"]).kinds
        [('two-sided', 'subset', 'berk_jones'), ('two-sided', 'subset', 'higher_criticism')]
        """
        return in_memory.scan(
            self, x, layers=layers, labels=labels, against=against, statistic=statistic,
            tail=tail, form=form, alphas=alphas, alpha_max=alpha_max, backend=backend,
        )  # fmt: skip

    @checks_keywords
    def quantile(self, q: float | Sequence[float]) -> Any:
        """Bounds (low, high) of the q-quantile of every node, from its survivors.

        The value with rank ceil(q M) (the smallest one for q = 0) lies in low <= value <= high; values of a wider
        float type that were counted at this background's edges are taken as rounded down to its type. Returns a pair
        of float64 arrays (nodes,), or (len(q), nodes), or a mapping from layer to such pairs if there are several
        layers; NaN where a node has no value.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> low, high = background.quantile(0.5)  # the value 49
        >>> float(low[0]), round(float(high[0]), 6)
        (25.0, 50.0)
        """
        return readouts.quantile(self, q)

    @checks_keywords
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the mergeable state as a Zarr store, which `hpv.open` reads; visible only when it is complete.

        >>> import numpy as np, hpv, tempfile
        >>> background = hpv.fit(np.arange(100.0).reshape(50, 2))
        >>> background.save(tempfile.mkdtemp() + "/background.zarr")
        """
        stored.save_background(self, path, overwrite=overwrite)

    @checks_keywords
    def edges(self, layer: str) -> np.ndarray:
        """All edges of a layer's nodes (nodes, K), outer ones included, filled up with NaN.

        >>> import numpy as np, hpv
        >>> background = hpv.fit(np.arange(100.0).reshape(100, 1), edges=[25, 50, 75])
        >>> background.edges("activations").round(6).tolist()
        [[0.0, 25.0, 50.0, 75.0, 99.0]]
        """
        return readouts.all_edges(self, layer)

    @checks_keywords
    def modal(self, layer: str) -> np.ndarray:
        """Which bins hold one modal value: bool (nodes, K); bin k lies between the edges k and k + 1.

        >>> import numpy as np, hpv
        >>> relu = np.maximum(np.arange(-50.0, 50.0), 0).reshape(100, 1)
        >>> hpv.fit(relu, bins=4).modal("activations").any(axis=1).tolist()
        [True]
        """
        return readouts.modal_bins(self, layer)
