"""What programs do with the Python clients of etcd: `store.py MODULE HOST:PORT [CA CERTIFICATE KEY]`, the files for TLS.

`etcd3` and its fork `pyetcd` (etcd-sdk-python) have the same interface.
"""

import importlib
import io
import queue
import sys
import threading

module, address = sys.argv[1:3]
tls = dict(zip(("ca_cert", "cert_cert", "cert_key"), sys.argv[3:]))
host, port = address.rsplit(":", 1)
etcd3 = importlib.import_module(module)
client = etcd3.client(host=host, port=int(port), timeout=20, **tls)


def check(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


def keys():
    client.put("p/a", "1")
    client.put("p/b", b"\x00\xff")
    client.put("q", "3")
    value, metadata = client.get("p/a")
    check((value, metadata.key, metadata.version), (b"1", b"p/a", 1))
    check(metadata.create_revision, metadata.mod_revision)
    check(client.get("missing"), (None, None))
    check([value for value, _ in client.get_prefix("p/")], [b"1", b"\x00\xff"])
    backwards = client.get_prefix("p/", sort_order="descend", sort_target="key")
    check([metadata.key for _, metadata in backwards], [b"p/b", b"p/a"])
    check([metadata.key for _, metadata in client.get_range("p/b", "r")], [b"p/b", b"q"])
    check([metadata.key for _, metadata in client.get_all()], [b"p/a", b"p/b", b"q"])
    check(client.put("p/a", "2", prev_kv=True).prev_kv.value, b"1")
    check(client.replace("p/a", "1", "x"), False)
    check(client.replace("p/a", "2", "x"), True)
    check(client.put_if_not_exists("p/a", "y"), False)
    check(client.put_if_not_exists("p/c", "y"), True)
    check(client.delete("missing"), False)
    check(client.delete("q"), True)
    check(client.delete_prefix("p/").deleted, 3)
    check(list(client.get_all()), [])


def transactions():
    client.put("t", "1")
    txn = client.transactions
    succeeded, responses = client.transaction(
        compare=[txn.value("t") == "1", txn.version("t") > 0, txn.create("none") == 0, txn.mod("t") > 1],
        success=[txn.put("t", "2"), txn.get("t"), txn.delete("u")],
        failure=[txn.put("t", "wrong")],
    )
    check((succeeded, responses[1][0][0]), (True, b"2"))
    nested = txn.txn(compare=[txn.value("t") == "2"], success=[txn.get("t")], failure=[])
    succeeded, responses = client.transaction(compare=[txn.value("t") == "1"], success=[], failure=[nested])
    check((succeeded, len(responses)), (False, 1))
    client.delete("t")


def leases():
    lease = client.lease(60)
    client.put("l", "1", lease=lease)
    check((lease.granted_ttl, lease.keys), (60, [b"l"]))
    check(58 <= lease.remaining_ttl <= 60, True)
    check(lease.refresh()[0].TTL, 60)
    lease.revoke()
    check(client.get("l"), (None, None))
    named = client.lease(30, lease_id=77)
    check(client.get_lease_info(77).grantedTTL, 30)
    client.revoke_lease(named.id)


def watches():
    heard = queue.Queue()
    watch = client.add_watch_prefix_callback("w/", lambda response: [heard.put(event) for event in response.events], prev_kv=True)
    client.put("w/a", "1")
    client.put("w/a", "2")
    client.delete("w/a")
    events = [heard.get(timeout=20) for _ in range(3)]
    check([(type(event).__name__, event.key, event.value) for event in events],
          [("PutEvent", b"w/a", b"1"), ("PutEvent", b"w/a", b"2"), ("DeleteEvent", b"w/a", b"")])
    check(events[2].prev_value, b"2")
    client.cancel_watch(watch)
    events, cancel = client.watch("w/b", start_revision=events[0].mod_revision if hasattr(events[0], "mod_revision") else None)
    threading.Timer(0.2, lambda: client.put("w/b", "late")).start()
    check(next(events).value, b"late")
    cancel()
    client.delete_prefix("w/")


def locks():
    with client.lock("lock", ttl=20) as lock:
        check(lock.is_acquired(), True)
        check(client.lock("lock", ttl=20).acquire(timeout=0), False)
    other = client.lock("lock", ttl=20)
    check((other.acquire(), other.release(), other.is_acquired()), (True, True, False))


def maintenance():
    status = client.status()
    check(status.version.startswith("3."), True)
    check(status.leader.id in [member.id for member in client.members], True)
    check(any(int(port) == int(url.rsplit(":", 1)[1]) for member in client.members for url in member.client_urls), True)
    check(client.hash() > 0, True)
    check(list(client.list_alarms()), [])
    client.put("c", "1")
    _, metadata = client.get("c")
    client.put("c", "2")
    client.compact(metadata.mod_revision, physical=True)
    client.defragment()
    file = io.BytesIO()
    client.snapshot(file)
    check(len(file.getvalue()) > 1000, True)
    client.delete("c")


for flow in [keys, transactions, leases, watches, locks, maintenance]:
    flow()
    print(flow.__name__)
client.close()
print("ok")
