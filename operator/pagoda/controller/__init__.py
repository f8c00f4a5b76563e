"""The control loop: watches fill a cache and a work queue, `reconcile` makes the world fit."""
