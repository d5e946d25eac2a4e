# As probe.py, with requests, which brings roots of its own.
import socket, sys
try:
    import requests
except ImportError:
    sys.exit("no requests")
port = int(sys.argv[1])
socket.getaddrinfo = lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
try:
    requests.get("https://%s:%d/info" % (sys.argv[2], port), allow_redirects=False, timeout=20)
except requests.exceptions.SSLError as e:
    sys.exit(str(e))
