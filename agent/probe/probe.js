// Exits with 0 if this Node accepts the certificate that is presented on a port
// of loopback, for a host's name. Arguments: the port, the name.
const [port, host] = process.argv.slice(-2);
const tls = require("tls");
const s = tls.connect({
	host: "127.0.0.1",
	port: Number(port),
	rejectUnauthorized: true, // whatever NODE_TLS_REJECT_UNAUTHORIZED says
	servername: require("net").isIP(host) ? "" : host, // RFC 6066: an address is no server name
	checkServerIdentity: (_, cert) => tls.checkServerIdentity(host, cert),
}, () => process.exit(0));
s.on("error", (e) => { console.error(e.message); process.exit(1); });
