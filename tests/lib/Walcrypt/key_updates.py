# A client of TLS 1.3 that asks for new keys again and again and takes no answer: key_updates.py PORT. It says "blocked" once the other
# side does not read any more, and waits for the end of its input.
import ctypes, select, socket, struct, sys

ssl = ctypes.CDLL('libssl.so.3')
for name in 'TLS_client_method', 'SSL_CTX_new', 'SSL_new':
    getattr(ssl, name).restype = ctypes.c_void_p

s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
s.connect(('127.0.0.1', int(sys.argv[1])))
s.sendall(struct.pack('!II', 8, 80877103))
assert s.recv(1) == b'S'
c = ctypes.c_void_p(ssl.SSL_new(ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_client_method())))))
ssl.SSL_set_fd(c, s.fileno())
assert ssl.SSL_connect(c) == 1
s.setblocking(False)
while True:
    ssl.SSL_key_update(c, 1)
    if ssl.SSL_do_handshake(c) != 1:
        # it may be slow only
        if not select.select([], [s], [], 1)[1]:
            break
        while ssl.SSL_do_handshake(c) != 1:
            if not select.select([], [s], [], 1)[1]:
                break
        else:
            continue
        break
print('blocked', flush=True)
sys.stdin.read()
