"""Copies, exports, imports and archives of threads."""
