"""Where requests that others name may go: hostile spellings, ranges that are not public, what an operator allows."""

from __future__ import annotations

import ipaddress

import pytest

from service_kit.destinations import Destinations, Refused, check_url, is_public
from service_kit.errors import InvalidArgument

PUBLIC = Destinations()


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://example.com", "https://example.com/"),
        ("HTTPS://EXAMPLE.com.:443/a?b=c#d", "https://example.com/a?b=c"),
        ("https://bücher.example/ü?ä=1", "https://xn--bcher-kva.example/%C3%BC?%C3%A4=1"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://[2606:4700::1111]/x", "https://[2606:4700::1111]/x"),
        ("https://1e100.net/", "https://1e100.net/"),
    ],
)
def test_a_good_address_has_one_form(url: str, normal: str) -> None:
    assert PUBLIC.parse(url).url == normal


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com", "//example.com/", "/etc/passwd", "file:///etc/passwd", "gopher://example.com", "data:,x"),
        *(
            "http://example.com/",
            "https:example.com",
            "https://",
            "https:///x",
            "https://:443/",
            "https://.",
            "https://a..b/",
        ),
        *(
            "https://user@example.com/",
            "https://user:password@example.com/",
            "https://example.com@127.0.0.1/",
            "https://@a/",
        ),
        *(
            "https://example.com:8443/",
            "https://example.com:0/",
            "https://example.com:99999/",
            "https://example.com:x/",
        ),
        *(
            "https://example.com\\@127.0.0.1/",
            "https://exa mple.com/",
            "https://example.com/\r\nx: y",
            "https://exa\tmple.com",
        ),
        *("https://localhost/", "https://LOCALHOST./", "https://a.localhost/"),
        *("https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/"),
        *("https://0177.0.0.1/", "https://127.0.0.01/", "https://127.0.0.1./", "https://1.2.3.4.5/", "https://0/"),
        *("https://0x/", "https://a.0x7f/", "https://①②⑦.0.0.1/", "https://127。0。0。1/"),
        *(
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:8.8.8.8]/",
            "https://[::127.0.0.1]/",
        ),
        *("https://[64:ff9b::7f00:1]/", "https://[64:ff9b:1::1]/", "https://[2002:7f00:1::]/", "https://[2001::1]/"),
        *("https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fc00::1]/", "https://[fd00:ec2::254]/"),
        *("https://[ff02::1]/", "https://[::1/", "https://[v1.x]/", "https://[1.2.3.4]/"),
        *("https://169.254.169.254/latest/meta-data/", "https://100.100.100.200/", "https://168.63.129.16/"),
        *(
            "https://10.0.0.1/",
            "https://172.16.0.1/",
            "https://192.168.1.1/",
            "https://0.0.0.0/",
            "https://255.255.255.255/",
        ),
        *("https://224.0.0.1/", "https://198.18.0.1/", "https://192.0.0.192/", "https://a" + "b" * 2000),
        *(
            "https://" + "a" * 64 + ".com/",
            "https://" + ".".join(["a" * 60] * 5) + "/",
            "https://-a.com/",
            "https://a%2eb/",
        ),
    ],
)
def test_what_leads_elsewhere_or_reads_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        PUBLIC.parse(url)


@pytest.mark.parametrize(
    "address",
    [
        *("0.1.2.3", "100.64.0.1", "127.255.0.1", "169.254.1.1", "172.31.255.255", "192.0.2.1", "192.88.99.1"),
        *(
            "198.51.100.7",
            "203.0.113.9",
            "239.1.1.1",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1",
            "100::1",
        ),
        *(
            "2001:db8::1",
            "2001:10::1",
            "2002::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "ff0e::1",
        ),
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_an_operator_allows_networks_and_hosts() -> None:
    rule = Destinations(["10.1.0.0/16", "hooks.internal:8080", "box"])
    loopback, inside, outside = (ipaddress.ip_address(text) for text in ("127.0.0.1", "10.1.2.3", "10.2.0.1"))
    assert rule.parse("http://10.1.2.3:9000/x").port == 9000
    rule.check_address(rule.parse("http://hooks.internal:8080/"), loopback)
    rule.check_address(rule.parse("http://box:1/"), outside)
    rule.check_address(rule.parse("http://somewhere.example:81/"), inside)
    for url, address in [
        ("https://hooks.internal/", loopback),
        ("https://somewhere.example/", outside),
        ("http://somewhere.example/", ipaddress.ip_address("1.1.1.1")),
        ("https://somewhere.example:81/", ipaddress.ip_address("1.1.1.1")),
    ]:
        with pytest.raises(Refused):
            rule.check_address(rule.parse(url), address)
    with pytest.raises(Refused):
        rule.parse("https://10.2.0.1/")


def test_plain_http_is_a_setting() -> None:
    assert Destinations(plain_http=True).parse("http://example.com/").port == 80


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "a b", "host:", "host:x", "", "https://host"])
def test_an_entry_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a network"):
        Destinations([entry])


def test_the_field_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"webhook\.url leads to an address that is not public"):
        check_url(PUBLIC, "https://127.0.0.1/", "webhook.url")
