"""What all tests share."""

from hypothesis import settings

pytest_plugins = ("tests.cluster.plugin",)

# No test asserts a time; and what fails is to fail for who has changed something, each time.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
