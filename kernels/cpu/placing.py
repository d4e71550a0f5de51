"""Where the edges of a node go, from the ordered pilot keys of the node; and closing them with the node's extremes.

Shapes: n = nodes, b = blocks of l lanes (a node each), m = pilot samples, c = room for modal candidates, e = room for
edges. ``ordered`` (b, m, l) holds in every lane the NaN of its node first (their key is the lowest), then its
``counted[node]`` numbers in ascending order.
"""

from __future__ import annotations

import numpy as np

from hpv.kernels.cpu.compiling import kernel
from hpv.kernels.cpu.sorting import sort_lanes

# Measures this close to a target are equally near to it; the larger value wins.
NEAR = 1e-12
# Steps of the table that finds the rank of a measure.
INVERSE = 4096
# Steps of the grid that edges move to.
GRID_STEPS = 65_000


@kernel
def run_end(ordered, start, stop):
    """First place after ``start`` where another value stands, by galloping."""
    value = ordered[start]
    step = 1
    low = start
    while low + step < stop and ordered[low + step] == value:
        low += step
        step *= 2
    high = min(low + step, stop)
    while high - low > 1:
        middle = (low + high) // 2
        if ordered[middle] == value:
            low = middle
        else:
            high = middle
    return high


@kernel
def run_start(ordered, place, first):
    """First place at or after ``first`` where the value at ``place`` stands, by galloping."""
    value = ordered[place]
    step = 1
    high = place
    while high - step >= first and ordered[high - step] == value:
        high -= step
        step *= 2
    low = max(high - step, first - 1)
    while high - low > 1:
        middle = (low + high) // 2
        if ordered[middle] == value:
            high = middle
        else:
            low = middle
    return high


@kernel
def lane_of(ordered, node):
    """The ordered keys (m,) of a node."""
    lanes = ordered.shape[2]
    return ordered[node // lanes, :, node % lanes]


@kernel
def order(packed, nan_key, numerator, denominator, counted, starts, stops, found):
    # (b, m, l) -> (b, m, l), (n,), (n, c), (n, c), (n,)
    """Sort every lane in place, count its numbers and find its modal values, block after block in the cache.

    All in one call: between two calls threads would wait for each other.
    """
    lanes = packed.shape[2]
    for b in range(packed.shape[0]):
        block, some = packed[b : b + 1], slice(b * lanes, min((b + 1) * lanes, counted.size))
        sort_lanes(block)
        count_numbers(block, nan_key, counted[some])
        find_modal(block, counted[some], numerator, denominator, starts[some], stops[some], found[some])


@kernel
def count_numbers(ordered, nan_key, counted):  # (b, m, l) -> (n,)
    """How many keys of every node are not NaN's."""
    m = ordered.shape[1]
    for node in range(counted.size):
        row = lane_of(ordered, node)
        low = -1
        high = m
        while high - low > 1:
            middle = (low + high) // 2
            if row[middle] == nan_key:
                low = middle
            else:
                high = middle
        counted[node] = m - high


@kernel
def find_modal(
    ordered, counted, numerator, denominator, starts, stops, found
):  # (b, m, l), (n,) -> (n, c), (n, c), (n,)
    """Runs of values that make up more than ``numerator / denominator`` of their node; ascending."""
    m = ordered.shape[1]
    for node in range(counted.size):
        found[node] = 0
        least = counted[node] * numerator // denominator + 1  # the least count for which rules.is_modal holds
        row = lane_of(ordered, node)
        first = m - counted[node]
        place = first + least - 1  # a run of `least` values covers one of the places first - 1 + i * least
        while place < m:
            start = run_start(row, place, first)
            stop = run_end(row, place, m)
            if stop - start >= least:
                starts[node, found[node]] = start
                stops[node, found[node]] = stop
                found[node] += 1
            place += max(1, (stop - place + least - 1) // least) * least


@kernel
def _merge(ordinary, count, grid, row, starts, modal, infinity, edges):
    """Edges of one node: ordinary values and the pairs v, next(v) of the modal ones, ascending, each once.

    An ordinary value moves down to the next multiple of 2**grid, unless another edge stands in the way.
    """
    used = 0
    i = 0
    for c in range(modal + 1):
        value = row[starts[c]] if c < modal else infinity
        while i < count and (c == modal or ordinary[i] < value):
            moved = (ordinary[i] >> grid) << grid
            if used == 0 or moved > edges[used - 1]:
                edges[used] = moved
                used += 1
            elif ordinary[i] > edges[used - 1]:
                edges[used] = ordinary[i]
                used += 1
            i += 1
        if c == modal:
            break
        if used == 0 or value > edges[used - 1]:
            edges[used] = value
            used += 1
        if value < infinity:  # there is no number above +inf
            edges[used] = value + 1
            used += 1
    return used


@kernel
def place_by_measure(ordered, nodes, counted, starts, stops, found, measure, bins, most, infinity, edges):
    # (b, m, l), (n',), (n,), (n, c), (n, c), (n,), (counted + 1,) -> (n, e)
    """Modal pairs, and the order statistics that divide the rest of a measure into equal parts.

    ``measure[r]`` is the measure of the r largest of ``counted`` values; all chosen ``nodes`` have the same count. Few
    distinct values (at most ``bins``) become edges themselves; else edges of float32 move down to a grid of
    GRID_STEPS steps between the lowest and the highest of them, where values can be compared in 16 bits. A step is far
    smaller than what the pilot tells (at least 64 of them double a number), and counts at moved edges are exact.
    """
    m = ordered.shape[1]
    chosen = np.empty(most + 1, ordered.dtype)
    ranks = np.empty(INVERSE + 1, np.int64)
    _invert(measure, ranks)
    above = np.empty(starts.shape[1] + 1)  # measure inside the modal values from this one upwards
    for node in nodes:
        row = lane_of(ordered, node)
        modal = found[node]
        room = most - 2 * modal
        first = m - counted[node]
        limit = min(bins, room)
        count = 0
        place = first
        c = 0
        while place < m and count <= limit:
            stop = run_end(row, place, m)
            if c < modal and starts[node, c] == place:
                c += 1
            else:
                chosen[count] = row[place]
                count += 1
            place = stop
        grid = 0
        if count > limit:
            above[modal] = 0.0
            for c in range(modal - 1, -1, -1):
                above[c] = above[c + 1] + measure[m - starts[node, c]] - measure[m - stops[node, c]]
            parts = min(bins, room + 1)
            count = _cut(row, first, starts[node], stops[node], modal, measure, ranks, above, parts, chosen)
            if count > 0 and ordered.itemsize == 4:
                span = np.int64(chosen[count - 1]) - np.int64(chosen[0])
                while span >> grid >= GRID_STEPS:
                    grid += 1
        _merge(chosen, count, grid, row, starts[node], modal, infinity, edges[node])


@kernel
def _invert(measure, ranks):
    """ranks[t] = the least r with measure[r] >= t / (ranks.size - 1)."""
    r = 0
    for t in range(ranks.size):
        while measure[r] * (ranks.size - 1) < t and r + 1 < measure.size:
            r += 1
        ranks[t] = r


@kernel
def _cut(row, first, starts, stops, modal, measure, ranks, above, parts, chosen):
    """Ordinary values nearest to the targets, ascending; the number of them."""
    m = row.size
    count = 0
    free = first  # the first place that may still be used
    for part in range(parts - 1, 0, -1):
        target = part * (1.0 - above[0]) / parts
        place = _nearest(row, first, starts, stops, modal, measure, ranks, above, target)
        place = max(place, free)
        for c in range(modal):
            if starts[c] == place:
                place = stops[c]
        if 0 <= place < m:
            chosen[count] = row[place]
            count += 1
            free = run_end(row, place, m)
    return count


@kernel
def _nearest(row, first, starts, stops, modal, measure, ranks, above, target):
    """Place of the ordinary value whose rest measure (at or above it, outside modal values) is nearest."""
    m = row.size
    # The part of the row between two modal values where the rest measure passes the target.
    c = modal - 1
    while c >= 0 and measure[m - stops[c]] - above[c + 1] < target:
        c -= 1
    low = stops[c] if c >= 0 else first
    high = starts[c + 1] if c + 1 < modal else m
    # The last place there that still reaches it.
    whole = target + above[c + 1]
    r = ranks[int(whole * (ranks.size - 1))]
    while r < m - first and measure[r] < whole:
        r += 1
    last = min(max(m - r, low), high - 1)
    below = run_start(row, last, first)
    over = run_end(row, last, m)
    for c in range(modal):  # the next ordinary values on both sides
        if starts[c] == over:
            over = stops[c]
    for c in range(modal - 1, -1, -1):
        if starts[c] == below:
            below = run_start(row, below - 1, first) if below > first else -1
    if over >= m:
        return below
    gap = target - _rest(over, m, starts, stops, modal, measure, above)
    near = below < 0 or gap <= _rest(below, m, starts, stops, modal, measure, above) - target + NEAR
    return over if near else below


@kernel
def _rest(place, m, starts, stops, modal, measure, above):
    """Measure at or above the place of an ordinary value, less what falls inside modal values there."""
    for c in range(modal):
        if starts[c] >= place:
            return measure[m - place] - above[c]
    return measure[m - place]


@kernel
def uniform_landmarks(ordered, counted, starts, stops, found, infinity, values, finite):
    # (b, m, l), (n,), (n, c), (n, c), (n,) -> (n, 6), (n,)
    """What the uniform rule needs of the finite values outside modal ones: their number, and six order statistics.

    Lowest, highest, and the two neighbours of each quartile (place 25 % and 75 % of the way, and the next one).
    """
    m = ordered.shape[1]
    places = np.empty(6, np.int64)
    for node in range(counted.size):
        row = lane_of(ordered, node)
        first = m - counted[node]
        last = m
        while first < m and row[first] == -infinity:
            first = run_end(row, first, m)
        if last > first and row[last - 1] == infinity:
            last = run_start(row, last - 1, first)
        n = last - first
        for c in range(found[node]):
            n -= max(0, min(stops[node, c], last) - max(starts[node, c], first))
        finite[node] = n
        if n == 0:
            continue
        places[0], places[1] = 0, n - 1
        places[2], places[4] = (n - 1) * 25 // 100, (n - 1) * 75 // 100
        places[3], places[5] = min(places[2] + 1, n - 1), min(places[4] + 1, n - 1)
        for k in range(6):
            place = places[k] + first
            for c in range(found[node]):
                if first <= starts[node, c] <= place:
                    place += stops[node, c] - starts[node, c]
            values[node, k] = row[place]


@kernel
def unite(edges, ordered, starts, found, infinity, united):  # (n, e), (b, m, l), (n, c), (n,) -> (n, e')
    """Ascending edges united with the modal pairs; ``united`` comes filled with the highest integer."""
    for node in range(edges.shape[0]):
        count = 0
        while count < edges.shape[1] and edges[node, count] <= infinity:
            count += 1
        _merge(edges[node], count, 0, lane_of(ordered, node), starts[node], found[node], infinity, united[node])


@kernel
def add_outer_edges(inner, survivors, counted, lowest, highest, infinity, edges, closed):
    # (n, e), (c, n, e), (c, n), (n,), (n,) -> (n, e + 2), (c, n, e + 2)
    """Add the outer edges: the smallest value, where all survive, and the next number above the largest, where none do.

    ``edges`` comes filled with the highest integer and ``closed`` with 0, as it stays where a node has no value.
    """
    for node in range(inner.shape[0]):
        if lowest[node] > highest[node]:
            continue
        low, high = lowest[node], highest[node] + 1
        used = 0
        k = 0
        while True:
            value = inner[node, k] if k < inner.shape[1] else infinity + 1
            kept = k < inner.shape[1] and value <= infinity
            smallest = min(value, low, high)
            if smallest > infinity:
                break
            edges[node, used] = smallest
            for group in range(closed.shape[0]):
                if kept and value == smallest:
                    closed[group, node, used] = survivors[group, node, k]
                elif smallest == low:
                    closed[group, node, used] = counted[group, node]
            used += 1
            if kept and value == smallest:
                k += 1
            if smallest == low:
                low = infinity + 1
            if smallest == high:
                high = infinity + 1
