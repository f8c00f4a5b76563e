"""`pagoda fetch`: brings a model from a Hugging Face hub into a folder, for engines to read.

It runs as an init container. What it tells the operator is two JSON documents: its progress over
HTTP and, when it fails, the reason in the container's termination message (report.py).
"""
