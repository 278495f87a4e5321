"""Kernels of a decode engine for Llama-like text models, each with a PyTorch reference that the CPU runs.

The functions here choose by where their tensors are; `device` holds the Triton side, imported on a GPU only.
"""
