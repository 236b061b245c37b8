"""Kernelspec templates, and what installs them."""
