"""The metrics API server: custom.metrics.k8s.io for the HPA, signals for the operator."""
