package ssh

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/cpu"

	xssh "golang.org/x/crypto/ssh"
)

const (
	maxVersion  = 255         // bytes of a version line (RFC 4253, section 4.2)
	maxKexInit  = 35_000      // bytes of a packet (RFC 4253, section 6.1)
	offerWait   = time.Second // a client need not speak first
	kexInitType = 20          // SSH_MSG_KEXINIT
	cookieSize  = 16          // RFC 4253, section 7.1
	lineEnd     = "\r\n"      //
	encryption  = 2           // the third of the lists behind the cookie: client to server; the other way is next
	fastest     = xssh.CipherAES128GCM
)

// fastCiphers is what a client is offered that has the fastest of them.
var fastCiphers = []string{xssh.CipherAES128GCM, xssh.CipherAES256GCM}

// hasAES: without instructions for it AES is not the fastest.
var hasAES = cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL

// preview makes out which ciphers to offer to the agent.
//
// The client's order decides (RFC 4253, section 7.1), and OpenSSH's begins with
// chacha20-poly1305, for processors without AES: it costs the gateway several
// times as much. Who has the fastest is offered nothing slower. To know that before
// our own offer goes out, the version and the client's offer are read here. The
// library gets them again; a client that waits for ours first gets all.
func (w *wire) preview() (ciphersFor []string) {
	if !hasAES {
		return ciphers
	}
	w.swallow = len(version) + len(lineEnd)
	_ = w.Conn.SetDeadline(time.Now().Add(offerWait))
	defer func() { _ = w.Conn.SetDeadline(time.Time{}) }()
	if _, err := io.WriteString(w.Conn, version+lineEnd); err != nil {
		_ = w.Conn.Close()
		return ciphers
	}
	var seen bytes.Buffer
	defer func() { w.unread = seen.Bytes() }()
	if offersFastest(io.TeeReader(readerOf(w.look), &seen)) {
		return fastCiphers
	}
	return ciphers
}

type readerOf func([]byte) (int, error)

func (r readerOf) Read(p []byte) (int, error) { return r(p) }

// offersFastest reads a version line and a KEXINIT, and not a byte more.
func offersFastest(r io.Reader) bool {
	var line [1]byte
	for n := 0; line[0] != '\n'; n++ {
		if _, err := io.ReadFull(r, line[:]); err != nil || n == maxVersion {
			return false
		}
	}
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false
	}
	length, padding := binary.BigEndian.Uint32(head[:]), int(head[4])
	if length > maxKexInit || int(length) <= padding+1+cookieSize {
		return false
	}
	payload := make([]byte, length-1)
	if _, err := io.ReadFull(r, payload); err != nil || payload[0] != kexInitType {
		return false
	}
	rest := payload[1+cookieSize : len(payload)-padding]
	for i := range encryption + 2 {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return false
		}
		n := int(binary.BigEndian.Uint32(rest))
		names := bytes.Split(rest[4:4+n], []byte(","))
		if i >= encryption && !slices.ContainsFunc(names, func(b []byte) bool { return string(b) == fastest }) {
			return false
		}
		rest = rest[4+n:]
	}
	return true
}
