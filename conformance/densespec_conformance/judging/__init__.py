"""How far an answer may be from the reference's, and comparing the two."""
