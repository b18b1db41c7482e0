"""Computes DenseNets on JAX, several ops at a time, with derivatives written out.

Plain functions of arrays, (batch, *spatial, channels), with kernels (*window, in, out). They import
JAX alone: Keras's models on JAX and Flax's modules both compute with them.

XLA's own derivative of a norm keeps more than it needs, and makes several passes where one is
enough. But with derivatives that are written out there is no forward mode: ``jax.jvp`` refuses
them, because JAX has no way to state both. Reverse mode also gives derivatives of derivatives.
"""
