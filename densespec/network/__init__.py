"""Describes a DenseNet as data: its spec, the named variants, and the graph of a spec."""
