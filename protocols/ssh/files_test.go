package ssh_test

import (
	"encoding/binary"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
)

// sftpPacket is a request of SFTP version 3: its type, its id where it has one,
// and strings.
func sftpPacket(kind byte, id uint32, texts ...string) []byte {
	p := binary.BigEndian.AppendUint32([]byte{0, 0, 0, 0, kind}, id)
	for _, text := range texts {
		p = binary.BigEndian.AppendUint32(p, uint32(len(text)))
		p = append(p, text...)
	}
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	return p
}

// I16: escapes take more room than what they stand for. Whatever an agent
// calls a file, the gateway lives, the request has a row, and the row says what
// it leaves out.
func TestI16_NamesThatAreAllEscapesHaveARow(t *testing.T) {
	const rename, symlink = 18, 20
	noise := func(n int) string { return strings.Repeat("\x01", n) }
	for name, tc := range map[string]struct {
		kind         byte
		path, target string
		begins, ends string // of the row
	}{
		"a rename":    {rename, "/a", noise(240), `allow sftp rename /a to \x01\x01`, "... (240 bytes)"},
		"a symlink":   {symlink, "/a", noise(240), `allow sftp symlink /a to \x01\x01`, "... (240 bytes)"},
		"both paths":  {rename, noise(4096), noise(4096), `allow sftp rename \x01\x01`, "... (4096 bytes)"},
		"a short one": {rename, "/a", noise(2), "allow sftp rename /a to ", `to \x01\x01`},
	} {
		t.Run(name, func(t *testing.T) {
			l, _, connect := pair(t, nil)
			client := connect()
			session, err := client.NewSession()
			must(t, err)
			in, err := session.StdinPipe()
			must(t, err)
			must(t, session.RequestSubsystem("sftp"))
			_, err = in.Write(append(sftpPacket(1, 3), sftpPacket(tc.kind, 7, tc.path, tc.target)...))
			must(t, err)
			var row string
			l.Eventually(wait, "the request has a row", func() bool {
				rows := l.summaries(l.id())
				row = rows[len(rows)-1]
				return strings.HasPrefix(row, tc.begins)
			})
			if !strings.HasSuffix(row, tc.ends) || len(row) > len("allow ")+512 {
				t.Errorf("logged %q", row)
			}
			if out, _, err := output(t, client, "echo here"); out != "here\n" || err != nil {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

// The host of a forward that is refused is cut the same way.
func TestForward_ALongTargetIsCutInTheLog(t *testing.T) {
	l, _, connect := pair(t, nil)
	_, _, err := connect().OpenChannel("direct-tcpip", xssh.Marshal(direct{strings.Repeat("\x01", 5000), 80, "127.0.0.1", 0}))
	if err == nil {
		t.Error("it was opened")
	}
	rows := l.summaries(l.id())
	if row := rows[len(rows)-1]; !strings.HasPrefix(row, `deny forward \x01\x01`) || !strings.HasSuffix(row, "... (5000 bytes):80") {
		t.Errorf("logged %q", row)
	}
}
