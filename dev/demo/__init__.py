"""`make demo`: from nothing to a streamed answer on a real Kubernetes on this machine.

`install.py` holds the steps that end-to-end tests use as well, `run.py` puts them in order.
"""
