"""Addresses of the one node cluster that may run at a time.

A private range that common networks, container tools and other clusters leave alone.
"""

LINK = "10.213.0.0/30"
HOST = "10.213.0.1"
NODE = "10.213.0.2"
LINK_PREFIX = 30
PODS = "10.213.64.0/24"
SERVICES = "10.213.128.0/20"
KUBERNETES_SERVICE = "10.213.128.1"
DNS_SERVICE = "10.213.128.10"
DNS_DOMAIN = "cluster.local"
