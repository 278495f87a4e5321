"""The fast generation path: device kernels and what runs them."""
