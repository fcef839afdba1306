"""Sockets: the web server, and range responses. Internals of uvicorn and h11 are used here only."""
