"""Personas for the people in a git history. No real name, e-mail address or handle passes this module."""

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from streamer.demo.git import Identity

PEOPLE, AGENTS, BOTS = 4, 3, 2
"""Minimum of each: a small repository gets additional colleagues."""
TITLE_LENGTH = 90

_FIRST = (
    "Ada Alma Anouk Arlo Bela Bruno Cleo Dario Edda Elio Enzo Esme Fenja Finn Freya Gael Greta Hugo Ida Ilja Ines Ivo Jorin Juna "
    "Kaito Kira Lale Leif Lior Lotte Luca Mael Maren Milo Mira Nadim Nele Nils Noor Odin Oona Orla Otis Pia Quinn Rafa Remy Ronja "
    "Runa Sami Selma Signe Soren Taro Thea Tilda Tove Ulla Vera Viggo Wanda Xenia Yael Yuki Zeno Zora"
)
_LAST = (
    "Abendroth Almgren Bellweather Birkholm Brightwater Calloway Castellan Dahlquist Drachmann Eastwick Elmgrove Fairholm Falkner "
    "Fernsby Galloway Glenhurst Greywood Halvorsen Hartwell Holmgaard Ironside Jadwiger Kestrel Kingsley Lindqvist Lockhart "
    "Marlowe Merriweather Moorcroft Nightingale Northgate Oakhurst Overgaard Pemberton Quillfeather Ravensworth Rosendahl "
    "Sandoval Silverlake Solberg Stonebridge Thornbury Underhill Valmont Vinterberg Wakefield Westergaard Winterbourne Yarrow Zimmerwald"
)
_AGENTS = ("Scout", "Mender", "Weaver", "Pilot", "Warden", "Sifter", "Forge", "Lantern", "Courier", "Mason")
_BOTS = (("bot-ci", "CI"), ("bot-deps", "Dependency bot"), ("bot-triage", "Triage bot"))
_ROLES = ("engineer", "engineer", "designer", "product manager", "reviewer", "support engineer")

_BOT = re.compile(
    r"\bbots?\b|\[bot\]|dependabot|renovate|greenkeeper|github-actions|^github$|^gitlab$|weblate", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+")
_SHORT = 2
"""Words up to this length are hidden only in a name's exact spelling: "an" and "li" are ordinary words, too."""
_LONG = 5
"""Words of at least this length are hidden also inside others, as in JohnsonParser."""
_NAMELESS = (
    " admin app bot bots build ci code com contact dev developer email github gitlab gmail hello info local localhost mail me "
    "net noreply no org private reply root support team test the unknown user users web webmaster work "
)
"""Parts of names and addresses that identify nobody."""
_UNSPEAKABLE = re.compile(r"\S*@\S*|\b\w+://\S+|(?<=\bfrom )\S+/\S+|(?<=\bbranch )\S+|[\w.-]+/[\w.-]+(?=#\d)")
"""Addresses, handles, links and the owners of branches and repositories."""
_TRAILER = re.compile(r"^[A-Za-z-]+-by:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Member:
    """An actor of the demo."""

    type: str
    id: str
    name: str
    role: str | None = None

    def actor(self, on_behalf_of: "Member | None" = None) -> dict[str, Any]:
        """Return the member as an event's actor."""
        actor = {"type": self.type, "id": self.id, "name": self.name}
        if self.role:
            actor["role"] = self.role
        if on_behalf_of:
            actor["on_behalf_of"] = on_behalf_of.id
        return actor


class Personas:
    """All members of the demo, the same for the same seed and identities."""

    def __init__(self, seed: int, authors: Iterable[Identity] = (), others: Iterable[Identity] = ()) -> None:
        """Give each author a persona; of `others` only the names are hidden."""
        self.seed = seed
        played = sorted(set(authors), key=lambda identity: (identity.email, identity.name))
        self._hidden = {word for identity in {*played, *others} for word in _words(identity)}
        self._plain = {_plain(word) for word in self._hidden if len(word) > _SHORT}
        self._within = re.compile("|".join(sorted(word for word in self._plain if len(word) >= _LONG)) or r"(?!)")
        dice = random.Random(f"{seed}:personas")  # noqa: S311 - the same personas again is the point
        self._names = self._free_names(dice)
        self._agent_names = iter([name for name in dice.sample(_AGENTS, len(_AGENTS)) if not self._is_hidden(name)])
        self.people: list[Member] = []
        self.agents: list[Member] = []
        self.bots = [Member("system", *bot) for bot in _BOTS[:BOTS]]
        self._played: dict[str, Member] = {}
        for identity in played:
            self._personas(identity)
        while len(self.people) < PEOPLE:
            self.people.append(self._person())
        while len(self.agents) < AGENTS:
            self.agents.append(self._agent())

    @property
    def members(self) -> list[Member]:
        """All members."""
        return [*self.people, *self.agents, *self.bots]

    def member(self, identity: Identity) -> Member:
        """Return the persona of an identity that the personas was created with."""
        return self._played[_key(identity)]

    def title(self, message: str) -> str:
        """Return a commit message's first line without anything that identifies a person."""
        line = next((line.strip() for line in message.splitlines() if line.strip()), "")
        if _TRAILER.match(line):
            line = ""
        line = _UNSPEAKABLE.sub("…", line)
        line = _WORD.sub(lambda match: self._stand_in(match[0]) if self._is_hidden(match[0]) else match[0], line)
        line = " ".join("".join(char if char.isprintable() else " " for char in line).split())
        if len(line) > TITLE_LENGTH:
            line = line[: TITLE_LENGTH - 1].rstrip() + "…"
        return line if _WORD.search(line) else "Small changes"

    def _is_hidden(self, word: str) -> bool:
        plain = _plain(word)
        return word in self._hidden or plain in self._plain or self._within.search(plain) is not None

    def _stand_in(self, word: str) -> str:
        number = int.from_bytes(sha256(f"{self.seed}:{word.casefold()}".encode()).digest()[:4])
        return self.people[number % len(self.people)].name.split()[0]

    def _personas(self, identity: Identity) -> None:
        key = _key(identity)
        if key in self._played:
            return
        number = sha256(f"{self.seed}:{key}".encode()).digest()[0]
        if _BOT.search(identity.name) or _BOT.search(identity.email.partition("@")[0]):
            self._played[key] = self.bots[number % len(self.bots)]
        elif len(self.people) >= PEOPLE and number % 4 == 0 and len(self.agents) < len(_AGENTS) - 1:
            self.agents.append(self._agent())
            self._played[key] = self.agents[-1]
        else:
            self.people.append(self._person())
            self._played[key] = self.people[-1]

    def _person(self) -> Member:
        name = next(self._names)
        return Member("user", "user-" + name.lower().replace(" ", "-"), name, _ROLES[len(self.people) % len(_ROLES)])

    def _agent(self) -> Member:
        name = next(self._agent_names, None) or f"Helper {len(self.agents) + 1}"
        return Member("agent", "agent-" + name.lower().replace(" ", "-"), name, "coding agent")

    def _free_names(self, dice: random.Random) -> Iterator[str]:
        """Yield names indefinitely, without any word of a real name."""
        first = [name for name in _shuffled(_FIRST, dice) if not self._is_hidden(name)] or ["Somebody"]
        last = [name for name in _shuffled(_LAST, dice) if not self._is_hidden(name)] or ["Else"]
        number = 0
        while True:
            round_, index = divmod(number, len(first))
            turn, offset = divmod(round_, len(last))
            name = f"{first[index]} {last[(index + offset) % len(last)]}"
            yield name if turn == 0 else f"{name} {turn + 1}"
            number += 1


def _shuffled(words: str, dice: random.Random) -> list[str]:
    found = words.split()
    dice.shuffle(found)
    return found


def _plain(word: str) -> str:
    """Remove case and accents, because people write names differently than their owners."""
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char)).casefold()


def _key(identity: Identity) -> str:
    return identity.email.casefold() or identity.name.casefold()


def _words(identity: Identity) -> Iterator[str]:
    """Yield the words that could identify a person: names, typical handles, address."""
    if _BOT.search(identity.name):
        return
    parts = _WORD.findall(identity.name)
    first, last = (parts[0], parts[-1]) if parts else ("", "")
    handles = (first + last, first[:1] + last, first + last[:1], "".join(parts))
    local, _, domain = identity.email.partition("@")
    for word in (*parts, *handles, *_WORD.findall(local), *_WORD.findall(domain.rpartition(".")[0])):
        if len(word) > 1 and not word.isdigit() and f" {word.casefold()} " not in _NAMELESS:
            yield from (word, word.capitalize())
