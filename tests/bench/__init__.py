"""Measures farkernel beside a direct connection to the node and beside `ssh -L`, in one run, from a laptop that has
only ssh to the login node beside `ssh -J -L`, and in images beside the runtime alone: python -m tests.bench.

Everything is compared within a round only: what else the machine does changes from one round to the next.
"""
