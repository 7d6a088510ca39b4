"""Senders and receivers: python-socketio's client with what it hides switched off, mended or detected."""
