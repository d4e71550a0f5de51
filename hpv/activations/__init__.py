"""Whatever can be read as blocks (samples, nodes) of named layers."""
