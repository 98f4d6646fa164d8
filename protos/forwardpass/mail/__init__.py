"""An e-mail file to the text that a person reads, the same way in the trainer and the client."""

from forwardpass.mail.read import read_mail

__all__ = ["read_mail"]
