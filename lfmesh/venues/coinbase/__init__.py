"""Coinbase Exchange: its WebSocket frames parsed, its subscription protocol, one connection to its feed."""
