"""A stand-in for Shifter, which no package registry has: a setuid command, `shifterimg` and a SPANK plugin.

It behaves as version 22.02.1 was seen to behave. `install` puts it onto the hosts, `images` names what the
gateway offers, `switches` is what a test can do to it.
"""
