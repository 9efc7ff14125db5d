"""Puts the adapters behind the ports. The only package that names concrete ones."""
