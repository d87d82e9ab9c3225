"""Blobs in an object store that speaks S3."""

from collections.abc import Callable, Iterator
from typing import Any

from service.errors import ServiceError, SettingsError, StoreDownError


class ObjectBlobs:
    """Blobs as objects under a URL such as `s3://bucket/prefix`; AWS_* variables set credentials and endpoint.

    Raises:
        SettingsError: If the URL's scheme is unknown, or the extra `s3` is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            from obstore.store import from_url
        except ImportError:
            raise SettingsError(f"{url} needs the extra: pip install 'acclimate[s3]'") from None
        try:
            self._store: Any = from_url(url)
        except Exception as error:  # noqa: BLE001 - the library raises many kinds of errors
            raise SettingsError(f"the blobs' URL {url} is wrong: {error}") from None

    def put(self, name: str, content: bytes, check: Callable[[bytes], object]) -> None:
        """Write a blob and read it back. A blob with the same content is accepted: an earlier reply may be lost.

        Raises:
            StoreDownError: If the store does not answer, or if it has other content under this name, which stays.
        """
        import obstore

        try:
            created = _create(self._store, name, content)
            written = bytes(obstore.get(self._store, name).bytes())
        except Exception as error:
            raise _down(error) from error
        if not created and written != content:
            raise StoreDownError(f"the object store holds another content as {name}; nothing was changed")
        try:
            check(written)
        except ServiceError:
            self.delete(name)
            raise

    def get(self, name: str) -> bytes:
        """Return a blob; KeyError if there is none."""
        import obstore

        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            raise KeyError(name) from None
        except Exception as error:
            raise _down(error) from error

    def delete(self, name: str) -> None:
        """Remove a blob if it exists."""
        import obstore

        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _down(error) from error

    def names(self) -> Iterator[str]:
        """Yield all names."""
        import obstore

        try:
            for page in obstore.list(self._store):
                yield from (entry["path"] for entry in page)
        except Exception as error:
            raise _down(error) from error


def _create(store: Any, name: str, content: bytes) -> bool:
    """Create an object; return False if one of this name exists."""
    import obstore
    from obstore.exceptions import AlreadyExistsError

    try:
        obstore.put(store, name, content, mode="create")
    except AlreadyExistsError:
        return False
    return True


def _down(error: Exception) -> StoreDownError:
    said = str(error).splitlines()[0][:200]
    return StoreDownError(f"the object store does not answer ({said}); nothing was changed")
