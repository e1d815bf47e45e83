"""Drivers carry the requests of a flow to the server and back."""
