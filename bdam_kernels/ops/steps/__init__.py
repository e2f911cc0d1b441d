"""One time step of the causal convolution and of the selective scan, for decoding."""
