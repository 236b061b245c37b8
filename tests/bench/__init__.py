"""Measures farkernel beside a direct connection to the node and beside `ssh -L`, in one run: python -m tests.bench.

Everything is compared within a round only: what else the machine does changes from one round to the next.
"""
