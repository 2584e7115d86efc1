"""The migration script that people have: scroll pages of 10 000, convert, helpers.bulk with generated ids.

One process for each batch of collections, batches drawn once. Its check of a tenth of the chunks is left out, in
its favour. Made like the script of the decision record, not a copy of it.
"""
import datetime
import json
import multiprocessing
import os
import sys

from elasticsearch import Elasticsearch, helpers

settings = json.load(sys.stdin)


def connect(side):
    login = settings[side]
    return Elasticsearch(login["url"], basic_auth=(login["username"], login["password"]), request_timeout=600)


def convert(collection, hit):
    source = hit["_source"]
    metadata = source.pop("metadata")
    created = datetime.datetime.fromtimestamp(metadata.pop("document_created_at"), datetime.timezone.utc)
    metadata.pop("collection_id", None)
    return {
        "_index": settings["index"],
        "_source": {
            "id": source["id"],
            "collection_id": collection,
            "document_id": metadata.pop("document_id"),
            "document_name": metadata.pop("document_name"),
            "embedding": source["embedding"],
            "content": source["content"],
            "metadata": metadata or None,
            "created": created.isoformat(),
        },
    }


def pages(client, collection):
    body = {"query": {"match_all": {}}, "size": settings["page"]}
    if settings["hidden"]:
        body["_source"] = {"exclude_vectors": False}
    page = client.search(index=str(collection), scroll="10m", **{k: v for k, v in body.items() if k != "_source"},
                         **({"source": body["_source"]} if "_source" in body else {}))
    while page["hits"]["hits"]:
        yield page["hits"]["hits"]
        page = client.scroll(scroll_id=page["_scroll_id"], scroll="10m")
    client.clear_scroll(scroll_id=page["_scroll_id"])


def migrate(batch):
    source, destination = connect("source"), connect("destination")
    for collection in batch:
        if source.count(index=str(collection))["count"] == 0:
            continue
        for hits in pages(source, collection):
            helpers.bulk(destination, (convert(collection, hit) for hit in hits))


if __name__ == "__main__":
    collections = settings["collections"]
    workers = os.cpu_count()
    size = -(-len(collections) // workers)
    batches = [collections[at:at + size] for at in range(0, len(collections), size)]
    with multiprocessing.Pool(workers) as pool:
        pool.map(migrate, batches)
