package sftp_test

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"testing"

	client "github.com/pkg/sftp"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

// BenchmarkCopy uploads and downloads 16 MiB, with a relay and without.
func BenchmarkCopy(b *testing.B) {
	data := pattern(16 << 20)
	for _, direction := range []string{"up", "down"} {
		for _, relayed := range []bool{false, true} {
			name := direction + "/direct"
			if relayed {
				name = direction + "/relayed"
			}
			b.Run(name, func(b *testing.B) {
				upstream, wait, err := startServer(exec.Command("/usr/lib/openssh/sftp-server"))
				if err != nil {
					b.Fatal(err)
				}
				near := upstream
				if relayed {
					fromClient, toRelay := io.Pipe()
					fromRelay, toClient := io.Pipe()
					go func() { _ = sftp.Relay(duplex{fromClient, toClient}, upstream, allow) }() // ends with the server
					near = duplex{fromRelay, toRelay}
				}
				c, err := client.NewClientPipe(near, near, client.UseConcurrentWrites(true))
				if err != nil {
					b.Fatal(err)
				}
				path := b.TempDir() + "/file"
				f, err := c.Create(path)
				if err != nil {
					b.Fatal(err)
				}
				if _, err = f.ReadFrom(bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					_, err := f.Seek(0, io.SeekStart)
					if direction == "up" {
						_, err2 := f.ReadFrom(bytes.NewReader(data))
						err = errors.Join(err, err2)
					} else {
						_, err2 := f.WriteTo(io.Discard)
						err = errors.Join(err, err2)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := errors.Join(f.Close(), c.Close(), wait()); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
