"""Reads what files state of their networks beside the arrays: Keras's and timm's configs."""
