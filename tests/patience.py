"""How long the tests wait for what must happen."""

PATIENCE = 60.0
"""Seconds. Three interpreters run the fast tests at once, on two cores: any process may stand still for a while. What
hangs for good fails all the same; and pytest's own limit for a whole test is longer."""
