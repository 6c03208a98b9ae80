"""Requests and responses between bytes and values: the only package that knows both the messages
and the wire format. It knows nothing of transports, models or time.
"""
