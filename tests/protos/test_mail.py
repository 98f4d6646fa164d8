import base64

import pytest

from forwardpass.mail import read_mail


def test_the_subject_comes_first_and_other_headers_do_not_come() -> None:
    mail = b"From: a@example.org\nSubject: Lunch\n  at noon\nX-Spam: yes\n\nHi,\n\n\n\nBob?\n"

    assert read_mail(mail) == "Lunch at noon\n\nHi,\n\nBob?"


def test_encoded_headers_and_bodies_are_decoded() -> None:
    body = base64.b64encode("Zażółć".encode("iso-8859-2")).decode()
    mail = (
        "Subject: =?utf-8?q?za=C5=BC=C3=B3=C5=82=C4=87?=\n"
        "Content-Type: text/plain; charset=iso-8859-2\n"
        f"Content-Transfer-Encoding: base64\n\n{body}\n"
    )

    assert read_mail(mail.encode()) == "zażółć\n\nZażółć"


def test_a_body_of_no_stated_charset_is_utf_8_or_else_latin_1() -> None:
    assert read_mail("Subject: x\n\nżółw 🐢".encode()) == "x\n\nżółw 🐢"
    assert read_mail(b"Subject: x\n\ncaf\xe9") == "x\n\ncafé"


def test_html_is_read_as_a_person_sees_it() -> None:
    html = (
        "<html><head><title>Offer</title><style>p {color: red}</style></head><body>"
        "<!-- V!agr@ --><p>Buy <b>n</b>ow &amp; save</p><script>alert('x')</script>5 < 6</body>"
    )
    mail = f"Subject: x\nContent-Type: text/html\n\n{html}\n"

    assert read_mail(mail.encode()).split() == [
        "x",
        "Offer",
        "Buy",
        "now",
        "&",
        "save",
        "5",
        "<",
        "6",
    ]


def test_all_parts_of_text_are_read_and_attachments_are_not() -> None:
    mail = (
        'Subject: two\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="="\n\n'
        "--=\nContent-Type: text/plain\n\none\n"
        "--=\nContent-Type: text/html\n\n<p>other</p>\n"
        "--=\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--=--\n"
    )

    assert read_mail(mail.encode()) == "two\n\none\n\nother"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"no headers at all",
        b"Subject: =?nonsense?q?x?=\n\nbody",
        b"Subject: =?utf-8?b?!!!?=\n\nbody",
        b"Content-Type: text/plain; charset=nonsense\n\n\xff\xfe",
        b"Content-Type: text/plain; charset=utf-7\n\n+2AA-",
        b"Content-Transfer-Encoding: base64\n\nA",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\n--x--",
        b"Content-Type: text/html\n\n<<<script><p",
        "Subject: żółw\n\n🐢".encode(),
    ],
)
def test_what_is_not_as_the_standards_want_it_is_read_as_far_as_it_goes(data: bytes) -> None:
    text = read_mail(data)

    assert text.encode().decode() == text
    assert ("body" in text) == (b"body" in data)
