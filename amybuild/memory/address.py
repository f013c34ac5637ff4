"""Addresses of memory servers: which sources are servers, and how messages name them."""

from __future__ import annotations

SCHEMES = ("stdio:", "http:", "https:", "unix:")


def is_server(address: str) -> bool:
    """Whether a graph's source is a server's address, and no file."""
    return address.startswith(SCHEMES)


def shown(address: str) -> str:
    """An address as messages name it: without what may be secret (values of variables, passwords, queries)."""
    scheme, _, rest = address.partition(":")
    if scheme == "stdio":
        rest = " ".join(word for word in rest.split() if "=" not in word)
    elif scheme in ("http", "https"):
        host, slash, path = rest.removeprefix("//").partition("?")[0].partition("/")
        rest = f"//{host.rpartition('@')[2]}{slash}{path}"
    return f"graph source '{scheme}:{rest}'"
