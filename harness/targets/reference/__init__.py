"""The reference chat server: python-socketio on aiohttp, SQLite, every message stored exactly once and in order.

It runs alone: `python -m harness.targets.reference --port 3000 --database chat.db`.
"""
