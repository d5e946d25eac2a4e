package policy

import "golang.org/x/crypto/ssh"

// SSH is what only an endpoint of type "ssh" has: how its upstream's host key is
// verified, and what agents may ask of it.
type SSH struct {
	// HostKeys are accepted as they are, whatever host of the endpoint shows them.
	HostKeys []ssh.PublicKey
	// HostCAs sign host certificates (OpenSSH PROTOCOL.certkeys) that are accepted
	// where the host is among their principals.
	HostCAs []ssh.PublicKey
	// KnownHosts verifies by known_hosts_file; nil without one.
	KnownHosts ssh.HostKeyCallback
	// ApproveHostKeys says that a key which nothing above accepts is an operator's
	// to accept: host_keys = "approve". Otherwise it is refused.
	ApproveHostKeys bool

	Env     []string  // variables that agents may set; "LC_*" for all that begin so
	Forward []Host    // where direct-tcpip may lead; empty: nowhere
	Jump    *Endpoint // the endpoint of type "ssh" through which hosts are reached; may be nil
	Record  bool      // sessions are recorded
}
