"""Computes DenseNets on JAX, several ops at a time, with derivatives written out.

Its functions take arrays (batch, *spatial, channels) and kernels (*window, in, out). It imports
only JAX: Keras's models on JAX and Flax's modules both compute with it.

XLA's own derivative of a norm keeps more than it needs, and makes several passes where one is
enough. But with derivatives that are written out there is no forward mode: ``jax.jvp`` refuses
them, because JAX has no way to state both. Reverse mode also gives derivatives of derivatives.
"""
