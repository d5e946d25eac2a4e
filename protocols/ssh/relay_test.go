package ssh

import (
	"crypto/ed25519"
	"io"
	"net"
	"sync/atomic"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// A sender is told of room in its window for several of its packets at once. Each
// time is a packet of its own, towards the sender.
func TestRelay_TellsOfRoomForSeveralPacketsAtOnce(t *testing.T) {
	const sent = 1 << 20 // within the window
	near, far := loopback(t)
	counted := &countedWrites{Conn: near}
	go func() { // the upstream
		config := &xssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(testSigner(t))
		_, channels, requests, err := xssh.NewServerConn(far, config)
		if err != nil {
			t.Error(err)
			return
		}
		go xssh.DiscardRequests(requests)
		channel, _, err := (<-channels).Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = channel.Write(make([]byte, sent))
		_, _ = channel.SendRequest("sent", false, nil)
		_ = channel.CloseWrite()
	}()
	conn, channels, requests, err := xssh.NewClientConn(counted, "upstream", &xssh.ClientConfig{HostKeyCallback: xssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	go xssh.DiscardRequests(requests)
	go func() {
		for c := range channels {
			_ = c.Reject(xssh.Prohibited, "")
		}
	}()
	channel, asked, err := conn.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	<-asked // what was sent before it has come
	before := counted.n.Load()
	var count atomic.Int64
	if err := relay(io.Discard, channel, &count, nil); err != nil || count.Load() != sent {
		t.Fatalf("%d bytes: %v", count.Load(), err)
	}
	const most = sent/(256<<10) + 1 // a first small read shows that much comes
	if n := counted.n.Load() - before; n > most {
		t.Errorf("%d packets tell of room for %d packets of data, want at most %d", n, sent/(32<<10), most)
	}
}

// A stream holds the large buffer only while much comes.
func TestRelay_LittleIsReadIntoASmallBuffer(t *testing.T) {
	// What is read: much, much, little, little.
	reads := []int{firstSize, copySize, 1, 1}
	var asked []int
	src := readerOf(func(p []byte) (int, error) {
		if len(asked) == len(reads) {
			return 0, io.EOF
		}
		asked = append(asked, len(p))
		return reads[len(asked)-1], nil
	})
	var count atomic.Int64
	if err := relay(io.Discard, src, &count, nil); err != nil {
		t.Fatal(err)
	}
	want := []int{firstSize, copySize, copySize, firstSize}
	for i := range want {
		if asked[i] != want[i] {
			t.Errorf("read %d was of %d bytes, want %d", i, asked[i], want[i])
		}
	}
}

// countedWrites counts the writes to a connection, one for a small packet.
type countedWrites struct {
	net.Conn
	n atomic.Int64
}

func (c *countedWrites) Write(p []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(p)
}

// loopback returns both ends of a TCP connection.
func loopback(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp4", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

func testSigner(t *testing.T) xssh.Signer {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := xssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}
