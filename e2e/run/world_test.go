package run

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// echoPort is that of the world's echo servers, TCP and UDP.
const echoPort = "7007"

// seen are the datagrams that the world's echo servers got.
var seen struct {
	mu    sync.Mutex
	texts []string
}

func seenDatagram(text string) bool {
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, t := range seen.texts {
		if strings.Contains(t, text) {
			return true
		}
	}
	return false
}

// serveEchoes answers TCP and UDP in the world, in both families.
func serveEchoes() error {
	for _, a := range []string{lab.WorldIPv4.String(), lab.WorldIPv6.String()} {
		if err := serve(net.JoinHostPort(a, echoPort), func(c net.Conn) { _, _ = io.Copy(c, c) }); err != nil {
			return err
		}
		// whoami: the address that a connection comes from.
		if err := serve(net.JoinHostPort(a, "7008"), func(c net.Conn) { _, _ = io.WriteString(c, c.RemoteAddr().String()+"\n") }); err != nil {
			return err
		}
		pc, err := theLab.World.ListenUDP(net.JoinHostPort(a, echoPort))
		if err != nil {
			return err
		}
		go echoDatagrams(pc)
	}
	return nil
}

func echoDatagrams(pc net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		seen.mu.Lock()
		seen.texts = append(seen.texts, string(b[:n]))
		seen.mu.Unlock()
		_, _ = pc.WriteTo(b[:n], from)
	}
}

func serve(addr string, handle func(net.Conn)) error {
	ln, err := theLab.World.Listen(addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return nil
}

// servePostgres is a server that turns every client down with an error of its
// own, in the protocol's words.
func servePostgres() error {
	return serve(net.JoinHostPort(lab.WorldIPv4.String(), "5432"), func(c net.Conn) {
		for {
			var length, code [4]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return
			}
			if _, err := io.ReadFull(c, code[:]); err != nil {
				return
			}
			if v := binary.BigEndian.Uint32(code[:]); v == 80877103 || v == 80877104 { // SSLRequest, GSSENCRequest
				_, _ = c.Write([]byte("N"))
				continue
			}
			_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(length[:])-8))
			body := "SFATAL\x00C28000\x00Mthe lab's server was reached\x00\x00"
			_, _ = c.Write(append(binary.BigEndian.AppendUint32([]byte("E"), uint32(len(body)+4)), body...))
			return
		}
	})
}

// serveSSH is a server that lets everyone in and echoes the command.
func serveSSH() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	cfg.AddHostKey(signer)
	return serve(net.JoinHostPort(lab.WorldIPv4.String(), "22"), func(c net.Conn) {
		_, channels, requests, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		for ch := range channels {
			session, reqs, err := ch.Accept()
			if err != nil {
				return
			}
			for r := range reqs {
				_ = r.Reply(r.Type == "exec", nil)
				if r.Type != "exec" {
					continue
				}
				_, _ = io.WriteString(session, "ran "+string(r.Payload[4:])+"\n")
				_, _ = session.SendRequest("exit-status", false, make([]byte, 4))
				session.Close()
			}
		}
	})
}
