"""An issuer of tokens: its keys, and a server that publishes them and can simulate every failure."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt import get_algorithm_by_name

if TYPE_CHECKING:
    import ssl

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class IssuerKey:
    """A private key and its published part."""

    alg: str
    private: Private
    kid: str | None

    @property
    def jwk(self) -> dict[str, Any]:
        """Return the public key, with `kid`, `alg` and `use`."""
        public = get_algorithm_by_name(self.alg).to_jwk(self.private.public_key(), as_dict=True)
        named = {} if self.kid is None else {"kid": self.kid}
        return {**public, **named, "alg": self.alg, "use": "sig"}

    def sign(self, claims: Mapping[str, Any], **headers: Any) -> str:
        """Create a token."""
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(dict(claims), self.private, self.alg, headers={**named, **headers})


@cache
def private_key(kind: str, number: int = 0) -> Private:
    """Return a private key of a kind, such as `RS256` or `P-384`: always the same one for the same number."""
    del number
    match kind:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "RSA-1024":
            return rsa.generate_private_key(65537, 1024)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "Ed448":
            return ed448.Ed448PrivateKey.generate()
    raise ValueError(kind)


def issuer_key(alg: str, kid: str | None = "one", number: int = 0) -> IssuerKey:
    """Return a key of the issuer."""
    return IssuerKey(alg, private_key(alg, number), kid)


class Issuer:
    """Publishes keys on a real socket. If `answer` is set, it responds instead."""

    def __init__(self, *keys: IssuerKey) -> None:
        self.keys: list[IssuerKey] = list(keys)
        self.answer: Answer | None = None
        self.requests: list[web.BaseRequest] = []
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0.1)
        self.port = 0
        self.tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Return the URL of the keys, with a secret that must not be exposed."""
        return f"{'https' if self.tls else 'http'}://user:password@127.0.0.1:{self.port}/keys.json?token=hidden"

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await self.listen()
        return self

    async def listen(self) -> None:
        """Listen, always on the same port."""
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self.tls)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def vanish(self) -> None:
        """Refuse connections."""
        for site in list(self._runner.sites):
            await site.stop()

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self.answer is not None:
            return await self.answer(request)  # type: ignore[arg-type]
        return web.json_response({"keys": [key.jwk for key in self.keys]})


def says(status: int = 200, body: bytes | str = b"", headers: dict[str, str] | None = None) -> Answer:
    """Send this response to every request."""
    raw = body.encode() if isinstance(body, str) else body

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=raw, headers=headers)

    return answer


async def hangs(_: web.Request) -> web.StreamResponse:
    """Never respond."""
    await asyncio.Event().wait()
    raise AssertionError
