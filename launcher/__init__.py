"""The compute side: the program that runs on a job's first node. Standard library and pyzmq only."""
