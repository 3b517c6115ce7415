"""Texts as terminals, pages and spreadsheets may show them."""

import unicodedata

import hypothesis
import pytest
from hypothesis import strategies as st

from cdc_jax.escaping import spreadsheet_cell, visible, visible_tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hat", "hat"),
        ("Müller's café, 日本語 ☃", "Müller's café, 日本語 ☃"),
        ("नमस्ते می‌خواهم 👩‍🔬", "नमस्ते می‌خواهم 👩‍🔬"),  # with joiners
        ("a\xa0b", "a\xa0b"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # a CSI of one character
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\0", r"\x00"),
        ("\x7f", r"\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\u2028", r"\u2028"),
        ("caf\udce9", r"caf\udce9"),
        ("\uffff", r"\uffff"),
        ("[/b] <b> &", "[/b] <b> &"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text, expected):
    assert visible(text) == expected
    assert visible(expected) == expected


def test_keys_and_items_of_a_tree_are_escaped():
    tree = {"a\n": ["\0", ("b", 1.5, None)], "c": {"d": True}}
    assert visible_tree(tree) == {r"a\n": [r"\x00", ["b", 1.5, None]], "c": {"d": True}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("-x.jpg", "'-x.jpg"),
        ("− CoOp", "− CoOp"),  # a true minus
        ("a=1", "a=1"),
        ("", ""),
        ("\t=1", r"\t=1"),
        ("＝1", "'＝1"),
    ],
)
def test_cells_of_spreadsheets(text, expected):
    assert spreadsheet_cell(text) == expected


@hypothesis.given(st.text(st.characters()))
def test_whatever_a_text_is_every_encoding_and_terminal_can_have_it(text):
    shown = visible(text)
    shown.encode("utf-8")
    assert {unicodedata.category(char) for char in shown} & {"Cc", "Cs", "Zl", "Zp", "Cn"} == set()
    assert spreadsheet_cell(text)[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n"}
