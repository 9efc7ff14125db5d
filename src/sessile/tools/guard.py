"""Which addresses of the network tools may reach: public ones, and those that the server's configuration allows.

The rule is applied to the address of every single connection, after names were resolved and for every redirect, so
that a name that resolves to something else the second time gets nowhere.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

MAX_URL_CHARS = 8_192
PORTS = frozenset({80, 443})
"""Ports below 1024 that may be reached; others belong to services that are not the web."""
_CONNECT_SECONDS = 10.0
_SPECIAL = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
        *("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "3fff::/20"),
    )
]
"""Networks that are not the public internet: the special-purpose registries of IANA, multicast and reserved addresses,
of IPv6 all but 2000::/3, and the address by which a virtual machine in a well-known cloud reaches its own host."""
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?", re.IGNORECASE)
"""What a resolver may take for an IPv4 address: `2130706433`, `0x7f.1`, `0177.0.0.1`."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class Refused(OSError):
    """An address that tools may not reach; the text is for a model."""


class Guard:
    """What one kind of tool may reach.

    `allow` holds addresses and networks besides the public ones, such as `10.0.0.0/8`. An allowed network may be
    reached on every port.
    """

    def __init__(self, allow: Iterable[str] = (), resolver: AbstractResolver | None = None) -> None:
        """`resolver` replaces the system's; its caller closes it. Raises ValueError for what is no network."""
        self._allow = [ipaddress.ip_network(text) for text in allow]
        self._resolver = resolver

    def url(self, text: str) -> URL:
        """Parse a URL that a connection may be tried to. Raises Refused."""
        if len(text) > MAX_URL_CHARS:
            raise Refused(f"The URL is longer than {MAX_URL_CHARS} characters.")
        try:
            url = URL(text.strip())
            port = url.port
        except ValueError as error:
            raise Refused(f"The URL cannot be read: {str(error)[:200]}.") from None
        if url.scheme not in ("http", "https") or not url.host or port is None:
            raise Refused("The URL must start with http:// or https:// and name a host.")
        if _NUMERIC.fullmatch(url.host) and not _is_address(url.host):
            raise Refused("The host is an address that is not written in the usual way.")
        if url.user is not None or url.password is not None:
            raise Refused("The URL must not hold a user name or a password.")
        if any(ord(char) < 33 for char in text.strip()):
            raise Refused("The URL must not hold spaces or control characters.")
        return url

    def check(self, address: str, port: int) -> None:
        """Raise Refused for an address that may not be connected to."""
        try:
            ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
        except ValueError:
            raise Refused(f"{address[:100]!r} is no address.") from None
        if any(ip.version == network.version and ip in network for network in self._allow):
            return
        if not _is_public(ip):
            raise Refused(f"{ip} is not a public address, and this server does not allow it.")
        if port not in PORTS and port < 1024:
            raise Refused(f"The port {port} is not one of the web.")

    def connector(self) -> aiohttp.TCPConnector:
        """A connector whose every connection is checked."""
        return aiohttp.TCPConnector(
            resolver=_Unclosed(self._resolver) if self._resolver else aiohttp.ThreadedResolver(),
            use_dns_cache=False,
            force_close=True,
            socket_factory=self._socket,
        )

    def session(self, seconds: float | None = None) -> aiohttp.ClientSession:
        """A session without proxies or cookies whose every connection is checked. It decompresses nothing."""
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        return aiohttp.ClientSession(
            connector=self.connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trust_env=False,
            auto_decompress=False,
        )

    def _socket(self, info: AddressInfo) -> socket.socket:
        """The socket of one connection: the last place where its address can still be refused."""
        family, kind, protocol, _, place = info
        self.check(str(place[0]), int(place[1]))
        return socket.socket(family=family, type=kind, proto=protocol)


class _Unclosed(AbstractResolver):
    """A resolver that a connector does not close."""

    def __init__(self, resolver: AbstractResolver) -> None:
        self._resolver = resolver

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        return await self._resolver.resolve(host, port, family)

    async def close(self) -> None:
        """Leave the resolver to its owner."""


def refusal(error: BaseException) -> Refused | None:
    """The refusal behind an error of a connection, if that is its reason."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Refused):
            return seen
        inner = getattr(seen, "os_error", None)
        seen = inner if isinstance(inner, BaseException) and inner is not seen else seen.__cause__
    return None


def _plain(ip: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if embedded is None and ip in _NAT64:
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        return embedded or ip
    return ip


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_public(ip: Address) -> bool:
    return not any(ip.version == network.version and ip in network for network in _SPECIAL)
