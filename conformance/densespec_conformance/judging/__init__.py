"""How far an answer may be from the reference's, and the comparison of the two."""
