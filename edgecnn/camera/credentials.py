"""Addresses of cameras hold passwords. What people, logs and JSON see of an address is made here."""

from __future__ import annotations

import re
from urllib.parse import quote

__all__ = ["escape_credentials", "mask_credentials"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:@]*)(:[0-9]*)?")
_SECRETS = (
    "pass passwd password passphrase passcode pwd pw psw secret token auth key apikey sig signature session "
    "user usr username userid user-id login account"
)
_PARAMETER = re.compile(
    # a parameter of a query or of a GStreamer element: `?password=…`, `&api_key=…`, ` user-pw="…"`
    rf"(?<![\w-])((?:[\w-]*[_-])?(?:{'|'.join(_SECRETS.split())})\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s&;#!]+)",
    re.IGNORECASE,
)


def mask_credentials(text: str) -> str:
    """The text with `user:password@` of addresses, and parameters such as `password=`, replaced by `***`.

    An address is taken from its scheme to the end of the text, or in a `gst:` pipeline to the next space or
    quote. Text without one comes back as it is.

    People leave `/` and `@` in passwords unescaped, which then end the authority too early. So unless it
    begins with a plain host or host:port, everything up to the last `@` is taken for credentials.
    """
    if text.startswith("gst:"):
        masked = re.sub(rf"{_SCHEME.pattern}[^\s\"']+", lambda match: _mask_address(match[0]), text)
        return _PARAMETER.sub(r"\1***", masked)
    match = _SCHEME.search(text)
    if match is None:
        return text
    masked = text[: match.start()] + _mask_address(text[match.start() :])
    return _PARAMETER.sub(r"\1***", masked)


def escape_credentials(address: str) -> str:
    """The address with what its password must not hold unescaped (`@`, `/`, `?`, …) escaped."""
    scheme, credentials, rest = _split(address)
    if credentials is None:
        return address
    return f"{scheme}{quote(credentials, safe=':%')}@{rest}"


def _mask_address(address: str) -> str:
    scheme, credentials, rest = _split(address)
    return address if credentials is None else f"{scheme}***@{rest}"


def _split(address: str) -> tuple[str, str | None, str]:
    """`scheme://`, the credentials if there are any, and what follows them."""
    match = _SCHEME.match(address)
    scheme = match[0] if match else ""
    rest = address[len(scheme) :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" not in rest or _HOST.fullmatch(authority):
        return scheme, None, rest  # an @ belongs to the path
    credentials, _, rest = rest.rpartition("@")
    return scheme, credentials, rest
