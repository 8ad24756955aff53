"""Layers that compute what torch's own do, with their weights and names, in less time; what multiplies is in products.py."""
