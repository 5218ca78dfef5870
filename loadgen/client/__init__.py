"""A WebSocket client that checks what it is sent: `python -m loadgen.client`."""
