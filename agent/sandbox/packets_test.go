package sandbox

import (
	"bytes"
	"testing"
)

// Whatever is cut into packets is what was put together.
func FuzzCutPacket(f *testing.F) {
	f.Add([]byte{0, 1, 9, 0, 2, 8, 7})
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) > maxPackets {
			return
		}
		var again []byte
		for left := message; len(left) > 0; {
			packet, rest, err := cutPacket(left)
			if err != nil {
				return
			}
			if len(packet) == 0 || len(rest) >= len(left) {
				t.Fatalf("%d bytes of %d, %d are left", len(packet), len(left), len(rest))
			}
			var ok bool
			if again, ok = appendPacket(again, packet); !ok {
				t.Fatal("what was cut does not fit")
			}
			left = rest
		}
		if !bytes.Equal(again, message) {
			t.Fatalf("%x became %x", message, again)
		}
	})
}
