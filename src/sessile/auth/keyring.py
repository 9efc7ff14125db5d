"""The keys that secrets are encrypted with: from the environment, or from a file beside the database.

The file is made when the first secret comes: mode 0600, one line a key, the one in use first. Whoever has it and the
database has the secrets; whoever has only the database has not.
"""

import os
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from msgspec import Struct

from sessile.wire.errors import SecretsUnavailable

VARIABLE = "SESSILE_SECRETS_KEY"
_BYTES = 32


class Key(Struct, frozen=True):
    """A key, and the name that stands beside what is encrypted with it. Its text does not show the key."""

    id: str
    material: bytes

    def __repr__(self) -> str:
        return f"Key({self.id})"


class Keyring:
    """The keys of one database. `text` is that of the variable; with it there is no file."""

    def __init__(self, path: Path, text: str | None) -> None:
        self._path = path
        self._text = text

    @property
    def in_file(self) -> bool:
        """Whether the keys stand in the file, where a rotation can change them."""
        return not self._text

    def keys(self) -> list[Key]:
        """All keys, the one in use first; none before the first secret. Raises SecretsUnavailable."""
        if self._text:
            return [_key(part, VARIABLE) for part in self._text.split(",")]
        try:
            if self._path.stat().st_mode & 0o077:
                raise SecretsUnavailable("The key file of the secrets may be read by others: it needs mode 600.")
            lines = self._path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError):
            raise SecretsUnavailable("The key file of the secrets cannot be read.") from None
        return [_key(line, "The key file of the secrets") for line in lines]

    def first(self) -> list[Key]:
        """All keys; makes the file when there is none. Raises SecretsUnavailable."""
        if not (known := self.keys()):
            self._write([new_key()], fresh=True)
            known = self.keys()
        return known

    def replace(self, keys: Sequence[Key]) -> None:
        """Let the file hold these keys, the one in use first. Raises SecretsUnavailable."""
        self._write(keys, fresh=False)

    def _write(self, keys: Sequence[Key], fresh: bool) -> None:
        """Durable before anything is encrypted with it. A fresh file never takes the place of another's."""
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        text = "".join(f"{urlsafe_b64encode(key.material).decode()}\n" for key in keys)
        try:
            try:
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                if fresh:
                    _link(draft, self._path)
                else:
                    os.replace(draft, self._path)
            finally:
                draft.unlink(missing_ok=True)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise SecretsUnavailable(f"The key file of the secrets cannot be written: {error.strerror}.") from None


def new_key() -> Key:
    """A random key."""
    material = secrets.token_bytes(_BYTES)
    return Key(_id(material), material)


def _link(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:  # another process was faster: its key counts
        return


def _key(text: str, source: str) -> Key:
    try:
        material = urlsafe_b64decode(text.strip().encode("ascii"))
    except ValueError:
        material = b""
    if len(material) != _BYTES:
        raise SecretsUnavailable(f"{source} must hold keys of {_BYTES} bytes in URL-safe base64.")
    return Key(_id(material), material)


def _id(material: bytes) -> str:
    return "sk_" + sha256(b"sessile secrets key" + material).hexdigest()[:16]
