package sandbox

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMessage_CarriesADescriptor(t *testing.T) {
	a, f, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	b, err := connOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := send(a, message{Link: linkTUN}, int(null.Fd())); err != nil {
		t.Fatal(err)
	}
	m, got, err := receive(b)
	if err != nil || m.Link != linkTUN || got < 0 {
		t.Fatal(m, got, err)
	}
	// It is a device, but none that a run makes.
	if _, err := openLink(m.Link, got); err == nil {
		t.Fatal("/dev/null was taken for a TUN")
	}

	// More than one descriptor is refused, and none of them is kept.
	if _, _, err := a.WriteMsgUnix([]byte("{}"), unix.UnixRights(int(null.Fd()), int(null.Fd())), nil); err != nil {
		t.Fatal(err)
	}
	if _, got, err = receive(b); err == nil || got >= 0 {
		t.Fatal("two descriptors:", got, err)
	}
	if err := send(a, message{Error: string(make([]byte, maxMessage))}, -1); err == nil {
		t.Fatal("a message larger than maxMessage was sent")
	}
	a.Close()
	if _, _, err := receive(b); err == nil {
		t.Fatal("the end of the connection is no error")
	}
}

func TestOpenLink_TakesWhatARunMakesOnly(t *testing.T) {
	for _, kind := range []linkKind{linkTUN, linkPacket, "tap", ""} {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fds[0])
		if _, err := openLink(kind, fds[1]); err == nil {
			t.Errorf("a UNIX socket passed for %q", kind)
		}
		if err := unix.Close(fds[1]); err == nil {
			t.Errorf("%q: the descriptor was left open", kind)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte(`{"run":true}`))
	f.Add([]byte(`{"lease":{"addresses":["10.55.0.2"],"dns":null,"mtu":1420}}`))
	f.Add([]byte(`{"plan":{"covers":[{"path":"/"}]},"signal":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxMessage {
			return
		}
		a, file, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer file.Close()
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, fd, _ := receive(a); fd >= 0 {
			t.Fatal("a descriptor from nowhere")
		}
	})
}

func FuzzReceiveRequest(f *testing.F) {
	f.Add([]byte(`{"run":true}`))
	f.Add([]byte(`{"link":"relay"}`))
	f.Add([]byte(`{"end":true,"signal":1e99}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > maxMessage {
			return
		}
		a, file, err := pair()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer file.Close()
		if _, err := file.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := receiveRequest(a); err == nil && len(b) > maxRequest {
			t.Fatalf("a request of %d bytes was read", len(b))
		}
	})
}
