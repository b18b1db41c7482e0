"""What DenseNets compute on JAX, several ops at a time, with derivatives written out.

Plain functions of arrays, (batch, *spatial, channels), with kernels (*window, in, out). They import
JAX alone: Keras's models on JAX and Flax's modules both compute with them.

XLA's own derivative of a norm keeps what it need not and makes separate passes of what one does.
The price of derivatives that are written out is forward mode: ``jax.jvp`` refuses them, because
JAX has no way to state both. Derivatives of derivatives in reverse mode are there.
"""
