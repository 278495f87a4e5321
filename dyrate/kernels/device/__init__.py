"""The kernels in Triton. A module of this package imports triton, which CPU machines do not have."""
