"""Copies, exports, imports and archives threads."""
