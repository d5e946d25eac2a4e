package agent

import (
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/tun"
)

// muteDevice is a tun.Device that carries nothing: for a tunnel that is there to
// shake hands.
type muteDevice struct {
	mtu    int
	events chan tun.Event
	done   chan struct{}
	once   sync.Once
}

var _ tun.Device = (*muteDevice)(nil)

func newMuteDevice(mtu int) *muteDevice {
	d := &muteDevice{mtu: mtu, events: make(chan tun.Event, 1), done: make(chan struct{})}
	d.events <- tun.EventUp
	return d
}

// Read waits for Close.
func (d *muteDevice) Read([][]byte, []int, int) (int, error) {
	<-d.done
	return 0, os.ErrClosed
}

// Write drops what comes.
func (d *muteDevice) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

// Close ends Read.
func (d *muteDevice) Close() error {
	d.once.Do(func() {
		close(d.done)
		close(d.events)
	})
	return nil
}

func (d *muteDevice) MTU() (int, error)        { return d.mtu, nil }
func (d *muteDevice) Name() (string, error)    { return "mute", nil }
func (d *muteDevice) File() *os.File           { return nil }
func (d *muteDevice) Events() <-chan tun.Event { return d.events }
func (d *muteDevice) BatchSize() int           { return 1 }
