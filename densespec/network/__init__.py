"""A DenseNet as data: its spec, the named variants, and the graph that a spec is lowered to."""
