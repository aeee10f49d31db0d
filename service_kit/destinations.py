"""Where requests that others name may go: which addresses, ports and schemes; how an address is written without tricks.

The rule allows what is public and refuses the rest. The ranges are those of the IANA registries of special-purpose
addresses (RFC 6890 and its updates). Who connects asks twice: for the URL as it is written, and for the very address
that it is about to connect to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from service_kit.errors import InvalidArgument

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_LENGTH = 2000
_DEFAULT_PORTS = {"https": 443, "http": 80}
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# How C libraries read the last part of a name as a part of an IPv4 address: decimal, octal or hexadecimal.
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")

_REFUSED_IPV4 = [
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # A cloud answers its machines here, although the address is public.
        "168.63.129.16/32",
    )
]
_PUBLIC_IPV6 = ipaddress.IPv6Network("2000::/3")
# Tunnels and translations carry an IPv4 address within, which would be reached without having been looked at.
_REFUSED_IPV6 = [
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
]


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL taken apart. `host` is lower-case ASCII, an IPv6 address without brackets; `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole, in its one normal form."""
        return f"{self.scheme}://{self.authority}{self.target}"


class Refused(Exception):
    """The address is not one that this system connects to; the message is a sentence without the address."""


class Destinations:
    """The operator's rule."""

    def __init__(self, allow: Sequence[str] = (), ports: Sequence[str] = ("80", "443"), *, plain_http: bool = False):
        """Allow what is public, and of the rest `allow`: networks as 10.1.0.0/16, hosts as name or name:port.

        Args:
            allow: what may be reached although it is not public, at any port unless a host says its own, also by http.
            ports: the ports that may be reached elsewhere.
            plain_http: whether http may be spoken elsewhere.

        Raises:
            ValueError: an entry is none of these.
        """
        self._networks: list[_Network] = []
        self._hosts: set[tuple[str, int | None]] = set()
        for entry in allow:
            self._allow(entry.strip().lower())
        self._ports = frozenset(int(port) for port in ports)
        self._plain_http = plain_http

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry))
        except ValueError:
            name, colon, port = entry.partition(":")
            if not _NAME.fullmatch(name) or (colon and not port.isdecimal()):
                raise ValueError(
                    f"{entry!r} is neither a network such as 10.1.0.0/16 nor a host such as hooks.internal:8080"
                ) from None
            self._hosts.add((name, int(port) if port else None))

    def parse(self, url: str) -> Destination:
        """Take a URL apart and check what can be seen without resolving its name.

        Raises:
            Refused: it is not an absolute http or https URL, carries a user or a password, or goes where none may.
        """
        destination = _split(url)
        literal = _literal(destination.host)
        trusted = self._trusts(destination) or (literal is not None and self._in_allowed_network(literal))
        inside = is_local_name(destination.host) if literal is None else not is_public(literal)
        if inside and not (trusted or (literal is None and self._networks)):
            raise Refused(_NOT_PUBLIC)
        if destination.scheme == "http" and not (trusted or self._plain_http or self._networks):
            raise Refused("must be https")
        if destination.port not in self._ports and not (trusted or self._networks):
            raise Refused(f"names the port {destination.port}, which is not one of {self._port_names()}")
        return destination

    def check_address(self, destination: Destination, address: IPAddress) -> None:
        """Check the address that a connection to a destination is about to be made to.

        Raises:
            Refused: it is not public and not allowed, or the port or scheme may be used at allowed ones only.
        """
        if self._trusts(destination) or self._in_allowed_network(address):
            return
        if not is_public(address):
            raise Refused(_NOT_PUBLIC)
        # A name may lead into an allowed network, where more is allowed: only now is it known that it does not.
        if destination.scheme == "http" and not self._plain_http:
            raise Refused("must be https")
        if destination.port not in self._ports:
            raise Refused(f"names the port {destination.port}, which is not one of {self._port_names()}")

    def _trusts(self, destination: Destination) -> bool:
        return not self._hosts.isdisjoint({(destination.host, None), (destination.host, destination.port)})

    def _in_allowed_network(self, address: IPAddress) -> bool:
        return any(address in network for network in self._networks)

    def _port_names(self) -> str:
        return ", ".join(str(port) for port in sorted(self._ports))


_NOT_PUBLIC = "leads to an address that is not public, and that outgoing.allow does not name"


def is_public(address: IPAddress) -> bool:
    """Tell whether an address is one of the public internet, and of nothing within it that leads elsewhere."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    return address in _PUBLIC_IPV6 and not any(address in network for network in _REFUSED_IPV6)


def is_local_name(host: str) -> bool:
    """Tell whether a name is one of this machine, wherever it is looked up (RFC 6761)."""
    return host == "localhost" or host.endswith(".localhost")


def check_url(destinations: Destinations, url: str, field: str) -> Destination:
    """Return a URL of a request taken apart. Raises InvalidArgument that names the field when it is refused."""
    try:
        return destinations.parse(url)
    except Refused as refused:
        raise InvalidArgument.field(field, str(refused)) from None


def _split(url: str) -> Destination:
    # Programs differ in what they make of these, and so they could be led to different hosts.
    if len(url) > MAX_URL_LENGTH or any(character <= " " or character in '\\"<>^`{|}\x7f' for character in url):
        raise Refused(f"must be a URL of at most {MAX_URL_LENGTH} characters, without spaces, control characters or \\")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("is not a URL") from None
    scheme = parts.scheme
    if scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise Refused("must be an absolute https URL")
    if "@" in parts.netloc:
        raise Refused("must not carry a user or a password")
    if port == 0:
        raise Refused("names the port 0")
    return Destination(scheme, _host(parts), port or _DEFAULT_PORTS[scheme], _target(parts))


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").removesuffix(".")
    if parts.netloc.startswith("["):
        # Without zones, which name an interface of this machine.
        literal = _literal(host) if "%" not in host else None
        if literal is None:
            raise Refused("has an IPv6 address that is none")
        return literal.compressed
    try:
        name = host.encode("idna").decode("ascii").lower() if not host.isascii() else host
    except UnicodeError:
        raise Refused("has a host name that cannot be written in ASCII") from None
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise Refused("has no valid host name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]) and _literal(name) is None:
        raise Refused("has an IPv4 address that is not written as four decimal numbers")
    return name


def _target(parts: SplitResult) -> str:
    path = parts.path or "/"
    target = f"{path}?{parts.query}" if parts.query else path
    # What is not ASCII is sent as its UTF-8, percent-encoded, as browsers do.
    return "".join(
        character if character.isascii() else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "replace"))
        for character in target
    )


def _literal(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
