"""Kernels in C++ for CPUs whose vector units XLA does not use to the full, and how they come into a process."""
