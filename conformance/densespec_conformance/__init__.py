"""Is this the same network? Cases that compare an implementation with the float64 reference.

    python -m densespec_conformance torch.nn jax

runs every target in a process of its own; nothing here but ``worker`` imports a framework.
"""
