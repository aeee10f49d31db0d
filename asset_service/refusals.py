"""Why a file is not taken: one reason and one sentence for each kind of fault."""

from __future__ import annotations

import re

from service_kit.errors import ErrorReason, InvalidArgument

ACCEPTED = "PNG, JPEG, WebP, GIF or MP4"

_NAMES = (
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a ZIP archive"),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"(?is)\s*(<\?xml.*?)?(<!--.*?-->\s*)?(<!doctype svg.*?)?<svg\b"), "an SVG drawing"),
    (re.compile(rb"(?is)\s*<(!doctype html|html)"), "an HTML page"),
    (re.compile(rb"(?is)\s*<(script|\?php)"), "a script"),
    (re.compile(rb"\x1aE\xdf\xa3"), "a Matroska or WebM file"),
    (re.compile(rb"BM.{12}", re.DOTALL), "a BMP picture"),
    (re.compile(rb"II\*\x00|MM\x00\*"), "a TIFF picture"),
    (re.compile(rb".{4}ftyp(avif|avis)", re.DOTALL), "an AVIF picture"),
    (re.compile(rb".{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "a HEIC picture"),
    (re.compile(rb".{4}ftypqt  ", re.DOTALL), "a QuickTime movie"),
    (re.compile(rb".{4}ftypM4A ", re.DOTALL), "an MP4 file with sound only"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "an AVI movie"),
    (re.compile(rb"\x1f\x8b"), "a gzip file"),
    (re.compile(rb"Rar!\x1a\x07|7z\xbc\xaf\x27\x1c"), "an archive"),
    (re.compile(rb"\x7fELF|MZ"), "a program"),
)


def known_name(head: bytes) -> str | None:
    """Return what a file is that is never taken, by its first bytes; None when that is not known."""
    return next((name for pattern, name in _NAMES if pattern.match(head)), None)


def unsupported(what: str) -> InvalidArgument:
    """Return the error of a file of a type that is not taken."""
    return InvalidArgument(f"{what}; send {ACCEPTED}.", ErrorReason.UNSUPPORTED_MEDIA)


def damaged(what: str) -> InvalidArgument:
    """Return the error of a file that is cut, or contradicts itself."""
    return InvalidArgument(f"{what}; export the file anew and send that.", ErrorReason.MEDIA_DAMAGED)


def too_large(what: str) -> InvalidArgument:
    """Return the error of a file that would take too much to decode; `what` names the limit and the value."""
    return InvalidArgument(f"{what}; send a smaller one.", ErrorReason.MEDIA_TOO_LARGE)


def disguised(what: str) -> InvalidArgument:
    """Return the error of a file that is announced as something else, or is two things at once."""
    return InvalidArgument(f"{what}; send the picture or video alone.", ErrorReason.MEDIA_DISGUISED)
