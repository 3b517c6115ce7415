"""Names of folders from any names: short, safe, and different for different names."""

import hashlib
import re
import unicodedata

LONGEST = 200
"""Bytes of a name in UTF-8. File systems take 255, and files in the folder may add a suffix."""

_KEPT = 60  # characters of an unsafe or long name that its folder's name keeps
_REPLACED = re.compile(r"[^A-Za-z0-9@=.,;+_-]+")
_HASHED = re.compile(r"~[0-9a-f]{12}$")


def folder_name(name: str) -> str:
    """The name of the folder or file for a name.

    A safe and short name stays as it is. A name with a slash, a control character or the like, or
    of more than `LONGEST` bytes, becomes its beginning in plain letters and a hash of the whole.
    Different names therefore never share a folder.

    >>> folder_name("cdc@prompts.templates=2;views=flip")
    'cdc@prompts.templates=2;views=flip'
    >>> folder_name("zero_shot@prompts.anchors=x/../../ESCAPED {}.")
    'zero_shot@prompts.anchors=x_.._.._ESCAPED_.~1d35ceeba7cb'
    """
    if _is_safe(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    plain = _REPLACED.sub("_", name)[:_KEPT].lstrip(".-_") or "name"
    return f"{plain}~{digest}"


def _is_safe(name: str) -> bool:
    return (
        name.isprintable()  # and so without halves of surrogate pairs
        and unicodedata.is_normalized("NFC", name)
        and not set(name) & set("/\\")
        and not name.startswith((".", "-", "~", " "))
        and not name.endswith(" ")
        and 0 < len(name.encode()) <= LONGEST
        and not _HASHED.search(name)
    )
