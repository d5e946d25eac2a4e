package proxy

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// FuzzPeek looks for a ClientHello in whatever an agent may send, in pieces of
// any size. Whatever it finds, every byte must still be there for whoever serves
// the flow.
func FuzzPeek(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(3))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), uint16(1))
	f.Add([]byte("\x16\x03\x01\xff\xff"), uint16(0))
	f.Add(clientHello, uint16(0))
	f.Add(clientHello, uint16(7))
	f.Add(append(append([]byte{}, clientHello...), "early"...), uint16(40))
	f.Add(bytes.Repeat([]byte("\x16\x03\x01\x00\x01\x01"), 9000), uint16(1000))

	f.Fuzz(func(t *testing.T, said []byte, piece uint16) {
		agent, gateway := net.Pipe()
		go func() {
			defer agent.Close()
			for rest := said; len(rest) > 0; {
				n := len(rest)
				if piece > 0 {
					n = min(n, int(piece))
				}
				if _, err := agent.Write(rest[:n]); err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		seen := peek(gateway, nil)
		if len(seen.fromAgent) > helloLimit {
			t.Errorf("peeked %d bytes, more than %d", len(seen.fromAgent), helloLimit)
		}
		if seen.sni != "" && said[0] != recordHandshake {
			t.Errorf("found the name %q in what is not TLS", seen.sni)
		}
		replayed, err := io.ReadAll(&replayConn{Conn: gateway, head: seen.fromAgent})
		if err != nil {
			t.Errorf("replaying: %v", err)
		}
		if !bytes.Equal(replayed, said) {
			t.Errorf("%d bytes replayed, or others than the %d sent", len(replayed), len(said))
		}
		_ = gateway.Close()
	})
}

// clientHello is a minimal one of TLS 1.2 for "api.test" (RFC 5246, section
// 7.4.1.2; RFC 6066, section 3).
var clientHello = func() []byte {
	name := "api.test"
	serverName := append([]byte{0, byte(len(name) + 3), 0, 0, byte(len(name))}, name...)
	extensions := append([]byte{0, 0, 0, byte(len(serverName))}, serverName...)
	body := append([]byte{3, 3}, make([]byte, 32)...) // version, random
	body = append(body, 0, 0, 2, 0xc0, 0x2b, 1, 0)    // session, one cipher suite, no compression
	body = append(body, 0, byte(len(extensions)))     // extensions
	body = append(body, extensions...)                //
	message := append([]byte{1, 0, 0, byte(len(body))}, body...)
	return append([]byte{0x16, 3, 1, 0, byte(len(message))}, message...)
}()

func TestClientHelloSeedIsOne(t *testing.T) {
	sni, read := readHello(bytes.NewReader(clientHello[5:]), clientHello[:5])
	if sni != "api.test" || !bytes.Equal(read, clientHello) {
		t.Errorf("read the name %q from %d of %d bytes", sni, len(read), len(clientHello))
	}
}
