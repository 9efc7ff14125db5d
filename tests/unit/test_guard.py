import socket

import pytest

from sessile.tools.guard import MAX_URL_CHARS, Guard, Refused

REFUSED = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "4000::1",
    "9000::1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a9fe:a9fe",
    "2002:7f00:1::",
    "2001:0:7f00:1:0:0:5601:5601",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "nonsense",
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(Refused):
        Guard().check(address, 80)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    Guard().check(address, 443)


def test_ports_of_other_services() -> None:
    for port in (22, 25, 111, 445, 1023):
        with pytest.raises(Refused, match=str(port)):
            Guard().check("8.8.8.8", port)
    for port in (80, 443, 1024, 8080, 65535):
        Guard().check("8.8.8.8", port)


def test_what_the_configuration_allows() -> None:
    guard = Guard(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "10.9.9.9", "fd00::5"):
        guard.check(address, 25)
    for address in ("127.0.0.2", "192.168.0.1", "::1"):
        with pytest.raises(Refused):
            guard.check(address, 80)


def test_what_cannot_be_allowed() -> None:
    for text in ("localhost", "10.0.0.1/8", "", "*"):
        with pytest.raises(ValueError, match=r"."):
            Guard([text])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://example.com/",
        "data:text/plain,x",
        "http://",
        "http:///x",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://:secret@example.com/",
        "http://example.com:99999/",
        "http://example.com:x/",
        "http://exa mple.com/",
        "http://example.com/\r\nHost: other",
        "http://[::1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://" + "a" * MAX_URL_CHARS,
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        Guard().url(url)


def test_urls_that_are_taken() -> None:
    for url in (
        "http://example.com",
        " https://example.com:8443/a?b=c#d ",
        "http://[2606:2800:220:1::1]/",
        "http://127.0.0.1/",
        "http://1password.example/",
    ):
        assert Guard().url(url).host


def test_the_socket_is_where_an_address_is_refused_for_the_last_time() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("169.254.169.254", 80))
    with pytest.raises(Refused):
        Guard()._socket(info)
    with Guard(["169.254.169.254"])._socket(info) as made:
        assert made.family == socket.AF_INET
