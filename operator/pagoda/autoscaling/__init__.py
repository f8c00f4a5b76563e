"""Autoscaling on tokens per second: samples of pods, the demand law, learned capacity."""
