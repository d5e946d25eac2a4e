# Exits with 0 if Python's ssl accepts the certificate that is presented on a
# port of loopback, for a host's name. Arguments: the port, the name.
import socket, ssl, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
try:
    ssl.create_default_context().wrap_socket(s, server_hostname=sys.argv[2])
except ssl.SSLError as e:
    sys.exit(str(e))
