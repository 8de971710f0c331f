"""Devices by the scheme of their address."""
