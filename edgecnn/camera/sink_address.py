"""The parts of a network sink's URI: `scheme://user:password@host:port/path?option=value`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from edgecnn.camera.uri import mask_credentials
from edgecnn.errors import OutputError

__all__ = ["Address", "parse_address"]


@dataclass(frozen=True)
class Address:
    """A network sink's URI, understood.

    Attributes:
        name: the URI for people and logs, without credentials.
        scheme: in lower case.
        host: empty where none is given; an IPv6 address without its brackets.
        port: None where none is given.
        user, password: percent-decoded; None where not given.
        path: percent-decoded, without the leading slash.
        options: from behind the `?`.
    """

    name: str
    scheme: str
    host: str
    port: int | None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, option: str, default: float, *, low: float, high: float) -> float:
        """An option's value. Raises OutputError unless it is a number from `low` to `high`."""
        text = self.options.get(option)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise OutputError(
                f"cannot use {self.name}",
                got=f"{option}={text}",
                expected=f"a number from {low:g} to {high:g}",
            )
        return value

    def choice(self, option: str, *values: str) -> str:
        """An option's value, the first of `values` where it is not given. Raises OutputError on any other."""
        value = self.options.get(option, values[0])
        if value not in values:
            raise OutputError(
                f"cannot use {self.name}", got=f"{option}={value}", expected=" or ".join(values)
            )
        return value


def parse_address(uri: str, *, options: Collection[str] = ()) -> Address:
    """Take a URI apart.

    Raises:
        OutputError: no such port, or an option that this sink does not have.
    """
    name = mask_credentials(uri)
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise OutputError(
            f"cannot use {name}",
            got=str(error) if "@" not in uri else "an address that cannot be read",
            remedy="In a password, write / as %2F, @ as %40, : as %3A, # as %23 and ? as %3F",
        ) from None  # the message would hold the password
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for option in given:
        if option not in options:
            raise OutputError(
                f"cannot use {name}",
                got=f"the option {option}",
                expected=" or ".join(options) if options else "none",
            )
    return Address(
        name,
        parts.scheme.lower(),
        parts.hostname or "",
        port,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        unquote(parts.path).removeprefix("/"),
        given,
    )
