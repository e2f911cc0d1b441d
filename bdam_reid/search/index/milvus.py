"""A gallery in Milvus, a server of vectors, for who outgrows one machine: `MilvusGallery`.

An index on disk is uploaded into a collection, as a shard of it: machines with a folder each upload theirs. Uploaded
again, what is new or changed replaces what was, and what is gone leaves. Of a local file (milvus-lite) or a cluster the
interface is the same; which index the cluster builds over the vectors is its own affair, as long as it is by inner
product. Queries carry the weights of the parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from bdam_reid.config import ConfigError
from bdam_reid.search.columns import TIME, Where, moment
from bdam_reid.search.index.generation import Manifest, manifest_of
from bdam_reid.search.index.neighbours import Queries
from bdam_reid.search.index.reader import EVERYTHING, Entry, Index

KEY, SHARD, PATH, STAMP, ABOUT, MOMENT, VECTOR = "key", "shard", "path", "stamp", "about", "moment", "vector"
"""Fields of an image: shard and path; these two; its size and time of change; its columns; its time; its embedding."""
ROWS = 1000
"""That are sent at a time."""
LONGEST = 8192
"""Bytes of a path."""
MOST = 16_384
"""Images that Milvus gives at a time."""
UNKNOWN = -1e300
"""The moment of an image whose time is unknown; Milvus has no missing numbers."""
MANIFEST = "manifest"
"""Key of the one row that is no image: its columns are the manifest, its shard has no name."""


class MilvusGallery:
    """A collection of uploaded indexes, all by one model.

    Args:
        uri: a local file whose name ends with .db, or the address of a server.
        collection: its name there.
        token: of the server, where it wants one.
    Raises: ConfigError if pymilvus is not installed, or there is no such server or collection.
    """

    def __init__(self, uri: str, collection: str, token: str = "") -> None:
        self._client, self._collection = _client(uri, token), collection
        if not self._client.has_collection(collection):
            raise ConfigError(f"{uri} has no collection {collection}: upload an index to it first")
        self.manifest = _manifest(self._client, collection)

    def entries(self, query: Queries, k: int = 10, *, where: Where = EVERYTHING, one_per: str = "") -> list[Entry]:
        """The k images nearest to a query (E,), the best first; fewer if there are no more. A column that no image has
        leaves none.

        Args:
            query: with the weights of the parts in it.
            k: from 1 to `MOST`.
            where: which images may be found.
            one_per: a column, of each text of which the best image alone is given, among the best `MOST`; images of
                which it is unknown are all given. Empty gives all images.
        Raises: ValueError for k out of range.
        """
        if not 1 <= k <= MOST:
            raise ValueError(f"k must be from 1 to {MOST:,}, got {k}")
        wanted = k
        while True:
            found = self._search(query, wanted, where)
            best = _first_of_each(found, one_per) if one_per else found
            if len(best) >= k or len(found) < wanted or wanted == MOST:
                return best[:k]
            wanted = min(MOST, 4 * wanted)

    def _search(self, query: Queries, k: int, where: Where) -> list[Entry]:
        (hits,) = self._client.search(
            self._collection, data=[query.tolist()], limit=k, filter=_expression(where), anns_field=VECTOR,
            output_fields=[PATH, ABOUT, VECTOR], search_params={"metric_type": "IP"},
        )  # fmt: skip
        found = [(hit["distance"], hit["entity"]) for hit in hits]
        return [
            Entry(held[PATH], score, np.array(held[VECTOR], np.float32), _json(held[ABOUT])) for score, held in found
        ]


def upload(index: Index, uri: str, collection: str, shard: str, token: str = "") -> tuple[int, int]:
    """Make a shard of a collection equal to an index; the collection is made if there is none.

    Args:
        index: what is uploaded.
        uri, collection, token: as of `MilvusGallery`.
        shard: name of the part that is this index's, not empty.
    Returns: how many images were sent, and how many removed.
    Raises: ConfigError if pymilvus is not installed, there is no server, the collection is of another model, or the
        shard has no name.
    """
    if not shard:
        raise ConfigError("the shard must have a name, got none")
    client = _client(uri, token)
    if not client.has_collection(collection):
        _create(client, collection, index.manifest)
    if _manifest(client, collection).fingerprint != index.manifest.fingerprint:
        raise ConfigError(f"the collection {collection} is of another model than the index: give another collection")
    held = dict(_stamps(client, collection, shard))
    wanted = {_key(shard, index.path(row)): row for row in range(len(index))}
    new = [row for key, row in wanted.items() if held.get(key) != _stamp(index, row)]
    for at in tqdm(range(0, len(new), ROWS), unit="block", disable=None):
        client.upsert(collection, [_row(index, shard, row) for row in new[at : at + ROWS]])
    gone = [key for key in held if key not in wanted]
    for at in range(0, len(gone), ROWS):
        client.delete(collection, ids=gone[at : at + ROWS])
    return len(new), len(gone)


def _client(uri: str, token: str) -> Any:
    if find_spec("pymilvus") is None:
        raise ConfigError("Milvus needs pymilvus: pip install -e '.[milvus]'")
    from pymilvus import MilvusClient, MilvusException

    try:
        return MilvusClient(uri, token=token)
    except (MilvusException, ImportError, OSError) as error:
        raise ConfigError(f"cannot reach Milvus at {uri}: {error}") from error


def _create(client: Any, collection: str, manifest: Manifest) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=LONGEST)
    for name in (SHARD, PATH, STAMP):
        schema.add_field(name, DataType.VARCHAR, max_length=LONGEST)
    schema.add_field(ABOUT, DataType.JSON)
    schema.add_field(MOMENT, DataType.DOUBLE)
    width = max(part.stop for part in manifest.parts.values())
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=width)
    searched = client.prepare_index_params()
    searched.add_index(VECTOR, index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(collection, schema=schema, index_params=searched, consistency_level="Strong")
    held = {
        KEY: MANIFEST,
        SHARD: "",
        PATH: "",
        STAMP: "",
        ABOUT: asdict(manifest),
        MOMENT: UNKNOWN,
        VECTOR: width * [0.0],
    }
    client.insert(collection, [held])


def _manifest(client: Any, collection: str) -> Manifest:
    try:
        (held,) = client.get(collection, ids=[MANIFEST], output_fields=[ABOUT])
        return manifest_of(_json(held[ABOUT]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the collection {collection} is not one of uploaded indexes: give another name") from error


def _key(shard: str, path: str) -> str:
    return f"{shard}/{path}"


def _stamp(index: Index, row: int) -> str:
    """What tells an image from what it was when it was uploaded."""
    image = index.image(row)
    return json.dumps([image.size, image.changed, index.about(row)], sort_keys=True)


def _stamps(client: Any, collection: str, shard: str) -> Iterator[tuple[str, str]]:
    """Key and stamp of all images of a shard."""
    pages = client.query_iterator(
        collection, batch_size=ROWS, filter=f"{SHARD} == {json.dumps(shard)}", output_fields=[KEY, STAMP]
    )  # fmt: skip
    while page := pages.next():
        yield from ((held[KEY], held[STAMP]) for held in page)
    pages.close()


def _row(index: Index, shard: str, row: int) -> dict[str, Any]:
    about, path = index.about(row), index.path(row)
    return {
        KEY: _key(shard, path),
        SHARD: shard,
        PATH: path,
        STAMP: _stamp(index, row),
        ABOUT: about,
        MOMENT: moment(about[TIME]) if TIME in about else UNKNOWN,
        VECTOR: index.vectors(np.array([row]))[0].tolist(),
    }


def _expression(where: Where) -> str:
    """A filter as Milvus writes it."""
    held = [f'{SHARD} != ""']
    for name, texts in where.equal.items():
        # The embedded form has no `in` for entries of JSON.
        entry = f"{ABOUT}[{json.dumps(name, ensure_ascii=False)}]"
        any_of = " or ".join(f"{entry} == {json.dumps(text, ensure_ascii=False)}" for text in texts)
        held.append(f"({any_of})")
    if where.since is not None or where.until is not None:
        held.append(f"{MOMENT} > {UNKNOWN}")
    if where.since is not None:
        held.append(f"{MOMENT} >= {where.since!r}")
    if where.until is not None:
        held.append(f"{MOMENT} < {where.until!r}")
    return " and ".join(held)


def _json(held: Any) -> dict[str, Any]:
    """A JSON field, which some servers give as text."""
    return dict(json.loads(held) if isinstance(held, str | bytes) else held)


def _first_of_each(found: list[Entry], column: str) -> list[Entry]:
    best: dict[object, Entry] = {}
    for number, entry in enumerate(found):
        best.setdefault(entry.about.get(column, number), entry)
    return list(best.values())
