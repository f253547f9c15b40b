"""Redacts secrets before an event is stored: by the name of their key, and by the format of known tokens.

Vague formats are not used: a version, a host name or a hash stays. A key's last words show that it holds a secret
(`OPENAI_API_KEY`, `dbPassword`; not `author`, `maxTokens` or `secretId`). `secrets` has the rules, operators can add
their own, and docs/redaction.md explains both. Most events contain no secret, so the encoded bytes are first searched
for the few letters that every rule needs (`may_hold_secret`), and only events with a match are walked.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from streamer.ingest import secret_names, secrets
from streamer.ingest.names import Kind, Names
from streamer.ingest.secrets import REDACTED
from streamer.ingest.texts import Found, Texts, ignore, is_likely, is_stand_in, replaced

_ENTRY: Final = re.compile(r"(?as)([\w.-]+=)(.+)")
_NEXT_ENTRY: Final = re.compile(r"(?a)\n[ \t]*(?:export )?[A-Za-z_][\w.-]*=")
_LETTER: Final = re.compile(r"[^\W\d_]")
_FLAG: Final = re.compile(r"(?a)--?[A-Za-z][\w.-]*")
_HEADER: Final = re.compile("(?a)" + secrets.HEADER)
_SIGN: Final = re.compile("[0-9= ]")
_HEADER_NAME: Final = re.compile(secrets.HEADER_NAME)
_PLAIN: Final = (int, float, bool, type(None))
"""Types of values without text."""


class Redactor:
    """Redacts secrets, by the built-in rules and an operator's own. Immutable; one serves a whole server."""

    def __init__(self, *, names: Sequence[str] = (), keep: Sequence[str] = (), shapes: Sequence[str] = ()) -> None:
        """Compile the rules.

        Args:
            names: last words of further keys whose values are secret.
            keep: last words of keys that are not redacted by name, whatever other rule says so.
            shapes: regular expressions (Rust's syntax); a word that matches one is replaced as a whole.

        Raises:
            ValueError: one of them is invalid.
        """
        self._names = Names(names, keep)
        self._texts = Texts(self._names, shapes)

    def may_hold_secret(self, encoded: bytes) -> bool:
        """Return whether encoded JSON contains anything that a rule could replace; False is certain."""
        # Operators' shapes have no letters that every match contains, and JSON may escape what they match.
        if self._texts.own_shape is not None:
            return True
        # Every event has this key of ours, which contains "sk_". The quotes ensure that it is the key and not part of a text.
        return self._texts.hint.isinstance_python(encoded.replace(b'"task_id":', b"").decode())

    def is_secret_name(self, name: str) -> bool:
        """Return whether a key of this name holds a secret, by its last words."""
        return self._names.is_secret(name)

    def holds_token(self, text: str) -> bool:
        """Return whether a text that cannot be changed, such as an event's id, contains the format of a token."""
        return self._texts.holds_token(text)

    def redact_text(self, text: str, *, found: Found = ignore) -> str:
        """Replace known tokens and assigned secrets in a text."""
        return self._texts.clean(text, found)

    def redact(self, value: Any, *, found: Found = ignore) -> Any:
        """Return a JSON value with its secrets replaced; `found` is called for each.

        Below a secret's key everything except null, booleans, the empty string and a reference is replaced as a whole.
        Names of keys are searched for tokens, too.
        """
        if isinstance(value, str):
            return self.redact_text(value, found=found)
        if isinstance(value, list):
            return self._redact_list(value, found)
        if not isinstance(value, dict):
            return value
        label, labelled = self._label(value)
        is_jwk = "kty" in value
        result = {}
        for clean, (name, item) in zip(self._redact_names(value, found), value.items(), strict=True):
            if is_jwk and name in secrets.JWK_SECRETS and item and isinstance(item, str | list):
                result[clean] = replaced(item, found)
            else:
                result[clean] = self._redact_item(label if label and name in labelled else name, item, found)
        return result

    def redact_changes(self, changes: Mapping[str, Mapping[str, Any]], *, found: Found = ignore) -> dict[str, Any]:
        """Return an event's changes with their secrets replaced; each keeps its `from` and `to`."""
        return {
            clean: {side: self._redact_item(name, value, found) for side, value in change.items()}
            for clean, (name, change) in zip(self._redact_names(changes, found), changes.items(), strict=True)
        }

    def redact_texts(self, value: Any, *, found: Found = ignore) -> Any:
        """Return a value with the secrets in its texts replaced, without judging key names, because they are ours."""
        if isinstance(value, str):
            return self.redact_text(value, found=found)
        if isinstance(value, list):
            return [self.redact_texts(item, found=found) for item in value]
        if not isinstance(value, dict):
            return value
        names = self._redact_names(value, found)
        return {name: self.redact_texts(item, found=found) for name, item in zip(names, value.values(), strict=True)}

    # ---- keys

    def _label(self, value: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
        """Return the secret's name with which an object labels its value, or the empty text, and the possible keys of that value."""
        for key in secrets.LABELS:
            label = value.get(key)
            # A value of type "token" is as often part of a program as a secret.
            if isinstance(label, str) and self.is_secret_name(label) and (key, label.lower()) != ("type", "token"):
                is_field = key in secrets.FIELDS or self._names.kind(label) is Kind.SECRET
                return label, secrets.CHANGED if is_field else secrets.LABELLED
        return "", secrets.LABELLED

    def _redact_item(self, name: str, value: Any, found: Found) -> Any:
        kind = self._names.kind(name)
        if kind is Kind.HARMLESS:
            return value if isinstance(value, _PLAIN) else self.redact(value, found=found)
        if kind is Kind.SEVERAL:
            return self._redact_several(value, found)
        return self.redact(value, found=found) if self._may_stay(name, value) else replaced(value, found)

    def _redact_several(self, value: Any, found: Found) -> Any:
        """Replace the texts that look like secrets, at any depth; values of other keys are first judged by their own names."""
        if isinstance(value, str):
            return replaced(value, found) if _is_one_of_several(value) else self.redact_text(value, found=found)
        if isinstance(value, list):
            return [self._redact_several(item, found) for item in value]
        if not isinstance(value, dict):
            return value
        names = self._redact_names(value, found)
        return {
            clean: self._redact_item(name, item, found)
            if self.is_secret_name(name)
            else self._redact_several(item, found)
            for clean, (name, item) in zip(names, value.items(), strict=True)
        }

    def _may_stay(self, name: str, value: Any) -> bool:
        """Return whether a value below a secret's key is empty, or only a reference to the secret."""
        if isinstance(value, str):
            return self._texts.may_stay(name, value)
        if isinstance(value, dict) and value.keys() <= secrets.REFERENCE_KEYS:
            return any(key.startswith("secret") for key in value)
        if isinstance(value, dict | list):
            return name.lower() == secret_names.WHOLE_SECRET_NAME
        if value is None or isinstance(value, bool):
            return True
        return bool(abs(value) <= secret_names.MAX_COUNT) and self._names.kind(name) is Kind.WORD

    def _redact_names(self, names: Iterable[str], found: Found) -> list[str]:
        """Return the names of an object's keys without tokens, still unique."""
        clean = [self.redact_text(name, found=found) for name in names]
        if len(set(clean)) == len(clean):
            return clean
        result: dict[str, None] = {}
        taken, number = set(clean), Counter[str]()
        for name in clean:
            unique = name
            while unique in result or (unique is not name and unique in taken):
                number[name] += 1
                unique = f"{name} {number[name] + 1}"
            result[unique] = None
        return list(result)

    # ---- lists

    def _redact_list(self, items: Sequence[Any], found: Found) -> list[Any]:
        """Walk a list. It may be a command's arguments or an environment, where a secret follows its name."""
        result: list[Any] = []
        flag = ""
        curl = bool(items) and isinstance(items[0], str) and items[0].endswith("curl")
        in_turn = len(items) % 2 == 0
        for index, item in enumerate(items):
            if not isinstance(item, str):
                result.append(item if isinstance(item, _PLAIN) else self.redact(item, found=found))
                flag = ""
                continue
            if in_turn and index % 2 and self._is_value(items[index - 1], item):
                lead, secret = "", item
            elif flag or "=" in item:
                lead, secret = self._of_list(flag, item, curl=curl)
            else:
                lead, secret = "", ""
            if secret:
                result.append(self._texts.clean_tokens(lead, found) + replaced(secret, found))
            else:
                result.append(self._texts.clean(item, found))
            flag = item if item[:1] == "-" and _FLAG.fullmatch(item) else ""
        return result

    def _is_value(self, header: Any, item: str) -> bool:
        """Return whether a list item is the value of the preceding header, and secret."""
        return (
            isinstance(header, str)
            and _HEADER.fullmatch(header) is not None
            and self.is_secret_name(header)
            and _SIGN.search(item) is not None
            and REDACTED not in item
            and _HEADER_NAME.fullmatch(item) is None
        )

    def _of_list(self, flag: str, item: str, *, curl: bool) -> tuple[str, str]:
        """Split an item after a flag into the part that stays and the secret, which is empty if there is none."""
        lead, secret = "", ""
        if curl and flag in {"-u", "--user"}:
            user, colon, secret = item.partition(":")
            lead = user + colon
        elif flag and self.is_secret_name(flag):
            secret = item
        elif (
            (entry := _ENTRY.fullmatch(item))
            and self.is_secret_name(entry[1])
            and not self._texts.is_nothing(*entry.groups())
            and not _NEXT_ENTRY.search(item)  # an environment as a text
        ):
            lead, secret = entry.groups()
        return (lead, "") if is_stand_in(secret) else (lead, secret)


def _is_one_of_several(text: str) -> bool:
    """Return whether a text below `tokens` or `cookies` is a secret. A partly redacted text is not."""
    return (
        len(text) >= secret_names.MIN_OF_SEVERAL
        and is_likely(text)
        and REDACTED not in text
        and _LETTER.search(text, 0, secrets.MAX_LOOSE) is not None
    )
