"""JSON files that carry their own digest: after one flipped bit they are lost, instead of believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amybuild.digest import canonical, digest_bytes

_HEAD, _MIDDLE, _TAIL = b'{"check":"', b'","data":', b"}"
_BODY = len(_HEAD) + 64 + len(_MIDDLE)


def sealed(value: Any) -> bytes:
    """The content of a file that `unseal` reads; it is JSON itself."""
    body = canonical(value)
    return _HEAD + digest_bytes(body).encode() + _MIDDLE + body + _TAIL


def unseal(path: Path) -> Any:
    """The value in a sealed file, or None when it is missing or not what was written."""
    try:
        content = path.read_bytes()
        body = content[_BODY : -len(_TAIL)]
        if content != _HEAD + digest_bytes(body).encode() + _MIDDLE + body + _TAIL:
            return None
        return json.loads(body)
    except (OSError, ValueError, RecursionError):
        return None
