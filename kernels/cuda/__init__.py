"""The kernels for CUDA devices: the same integers as the CPU's; imported where a device is asked for."""
