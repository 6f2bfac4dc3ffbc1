"""Before any compute: is a config legal, what does it cost, and how fast will it be here."""

from sublayer.preflight.report import Check, check
from sublayer.preflight.subject import Subject, subject_of

__all__ = ["Check", "Subject", "check", "subject_of"]
