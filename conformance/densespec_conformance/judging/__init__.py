"""Compares answers with the reference's, and says how far they may be from them."""
