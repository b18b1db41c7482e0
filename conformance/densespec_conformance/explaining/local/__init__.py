"""Every op of an answer is judged by itself, and what a wrong one does instead is worked out."""
