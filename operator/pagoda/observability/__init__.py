"""Logs, health and metrics of the operator process."""
