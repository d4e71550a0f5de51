"""``hpv demo``: the whole way from a network to detected anomalies, on handwritten digits, without a download."""
