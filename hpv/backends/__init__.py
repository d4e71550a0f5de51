"""What a processor must be able to do for hpv, and the CPU and the GPUs that can."""
