"""Is this the same network? Cases that compare a backend with the float64 reference.

    python -m densespec_conformance --backend torch.nn --backend jax

runs every backend in a process of its own; nothing here but ``worker`` imports a framework.
"""
