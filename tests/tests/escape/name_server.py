# A name server of TCP alone that knows one name. It ends with whoever has started it.
import socket
import struct

NAME = b"\x04name\x04test\0"
ADDRESS = bytes([192, 0, 2, 7])


def take(connection, count):
    taken = b""
    while len(taken) < count:
        more = connection.recv(count - len(taken))
        if not more:
            raise EOFError
        taken += more
    return taken


def answer(query):
    # A question is a name, a type and a class; what comes behind it is not answered (RFC 1035, section 4).
    end = query.index(b"\0", 12) + 5
    known = query[12 : end - 4] == NAME
    is_address = query[end - 4 : end - 2] == b"\0\x01"
    found = known and is_address
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, len(ADDRESS)) + ADDRESS if found else b""
    head = struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, int(found), 0, 0)
    return query[:2] + head + query[12:end] + record


listener = socket.create_server(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        try:
            while True:
                reply = answer(take(connection, struct.unpack(">H", take(connection, 2))[0]))
                connection.sendall(struct.pack(">H", len(reply)) + reply)
        except (EOFError, ConnectionError):
            pass
