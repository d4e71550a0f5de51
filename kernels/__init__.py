"""The compiled loops of hpv, on numpy arrays that the caller allocates; imported as ``hpv.kernels``."""
