"""Is this the same network? The cases compare an implementation with the float64 reference.

    python -m densespec_conformance torch.nn jax

runs every target in a process of its own, which is where frameworks are imported.
"""
