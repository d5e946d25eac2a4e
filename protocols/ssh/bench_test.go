package ssh_test

import (
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// Each benchmark runs the same work beside each other, direct and through the
// gateway, and prints the ratio. Both ends are the library's, so that what is
// compared is one more pair of SSH halves.

// benchPair is an agent through the gateway, and the same without.
func benchPair(b *testing.B, cipher string) (through, direct *xssh.Client) {
	b.Helper()
	key, private := newKeyPEM(b, "")
	u := newUpstream(b, "deploy", key.PublicKey(), func(u *upstream) {
		u.session = benchSession
	})
	l := newLab(b, u.policy("ssh_key"))
	l.SetSecret("ssh_key.deploy", "private_key", private)
	l.handler.SetOpens(1e6)
	id := l.Approve("a", "ci")
	config := l.config("deploy")
	config.Ciphers = []string{cipher}
	through, told, err := l.try(id, host, config)
	if err != nil {
		b.Fatal(err, told)
	}
	plain := &xssh.ClientConfig{User: "deploy", Auth: []xssh.AuthMethod{xssh.PublicKeys(key)}, HostKeyCallback: xssh.FixedHostKey(u.host.PublicKey())}
	plain.Ciphers = config.Ciphers
	direct, err = xssh.Dial("tcp4", u.address, plain)
	must(b, err)
	b.Cleanup(func() { _ = direct.Close() })
	return through, direct
}

// benchSession sends without end, takes what comes, echoes, or does nothing.
func benchSession(u *upstream, c xssh.Channel, requests <-chan *xssh.Request) {
	defer c.Close()
	for r := range requests {
		_ = r.Reply(true, nil)
		if r.Type != "exec" {
			continue
		}
		var command struct{ Text string }
		_ = xssh.Unmarshal(r.Payload, &command)
		switch command.Text {
		case "send":
			buf := make([]byte, 32<<10)
			for {
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		case "take":
			_, _ = io.Copy(io.Discard, c)
		case "echo":
			_, _ = io.Copy(c, c)
		}
		_, _ = c.SendRequest("exit-status", false, xssh.Marshal(struct{ N uint32 }{0}))
		return
	}
}

// ratio runs work through and direct in turns, and reports how long each took.
// On a shared machine the processor time is the steadier figure: what the gateway
// takes is that of through without that of direct.
func ratio(b *testing.B, through, direct func()) {
	b.Helper()
	var spent, busy [2]time.Duration
	for b.Loop() {
		for i, work := range []func(){through, direct} {
			started, before := time.Now(), processorTime(b)
			work()
			spent[i] += time.Since(started)
			busy[i] += processorTime(b) - before
		}
	}
	b.ReportMetric(float64(spent[1])/float64(spent[0]), "of-direct")
	b.ReportMetric(float64(spent[0].Microseconds())/float64(b.N), "us-through")
	b.ReportMetric(float64(spent[1].Microseconds())/float64(b.N), "us-direct")
	b.ReportMetric(float64((busy[0]-busy[1]).Microseconds())/float64(b.N), "us-cpu-gateway")
	b.ReportMetric(float64(busy[1].Microseconds())/float64(b.N), "us-cpu-direct")
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func start(b *testing.B, client *xssh.Client, command string) (io.WriteCloser, io.Reader) {
	b.Helper()
	session, err := client.NewSession()
	must(b, err)
	in, err := session.StdinPipe()
	must(b, err)
	out, err := session.StdoutPipe()
	must(b, err)
	must(b, session.Start(command))
	b.Cleanup(func() { _ = session.Close() })
	return in, out
}

const bulk = 32 << 20

func BenchmarkBulk(b *testing.B) {
	for _, cipher := range []string{xssh.CipherAES128GCM, xssh.CipherAES128CTR, xssh.CipherChaCha20Poly1305} {
		b.Run("down/"+cipher, func(b *testing.B) {
			through, direct := benchPair(b, cipher)
			take := func(client *xssh.Client) func() {
				_, out := start(b, client, "send")
				return func() { _, _ = io.CopyN(io.Discard, out, bulk) }
			}
			b.SetBytes(2 * bulk)
			ratio(b, take(through), take(direct))
		})
	}
	b.Run("up/"+xssh.CipherAES128GCM, func(b *testing.B) {
		through, direct := benchPair(b, xssh.CipherAES128GCM)
		send := func(client *xssh.Client) func() {
			in, _ := start(b, client, "take")
			buf := make([]byte, 32<<10)
			return func() {
				for range bulk / len(buf) {
					_, _ = in.Write(buf)
				}
			}
		}
		b.SetBytes(2 * bulk)
		ratio(b, send(through), send(direct))
	})
}

func BenchmarkEcho(b *testing.B) {
	through, direct := benchPair(b, xssh.CipherAES128GCM)
	var times [2][]time.Duration
	echo := func(client *xssh.Client, into *[]time.Duration) func() {
		in, out := start(b, client, "echo")
		p := make([]byte, 1)
		return func() {
			started := time.Now()
			_, _ = in.Write(p)
			_, _ = io.ReadFull(out, p)
			*into = append(*into, time.Since(started))
		}
	}
	ratio(b, echo(through, &times[0]), echo(direct, &times[1]))
	for i := range times {
		slices.Sort(times[i])
	}
	b.ReportMetric(float64((times[0][len(times[0])/2]-times[1][len(times[1])/2]).Nanoseconds())/1000, "us-added-p50")
}

func BenchmarkExec(b *testing.B) {
	through, direct := benchPair(b, xssh.CipherAES128GCM)
	exec := func(client *xssh.Client) func() {
		return func() {
			session, err := client.NewSession()
			must(b, err)
			must(b, session.Run("nothing"))
		}
	}
	ratio(b, exec(through), exec(direct))
}

func BenchmarkConnect(b *testing.B) {
	key, private := newKeyPEM(b, "")
	u := newUpstream(b, "deploy", key.PublicKey())
	l := newLab(b, u.policy("ssh_key"))
	l.SetSecret("ssh_key.deploy", "private_key", private)
	id := l.Approve("a", "ci")
	plain := &xssh.ClientConfig{User: "deploy", Auth: []xssh.AuthMethod{xssh.PublicKeys(key)}, HostKeyCallback: xssh.FixedHostKey(u.host.PublicKey())}
	ratio(b, func() {
		client, _, err := l.try(id, host, l.config("deploy"))
		must(b, err)
		_ = client.Close()
	}, func() {
		conn, err := net.Dial("tcp4", u.address)
		must(b, err)
		c, _, _, err := xssh.NewClientConn(conn, u.address, plain)
		must(b, err)
		_ = c.Close()
	})
}
