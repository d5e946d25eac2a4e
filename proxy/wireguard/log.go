package wireguard

import (
	"fmt"
	"log/slog"
	"runtime/debug"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"
)

// Error lines of the WireGuard device, a second and at once. Some of them can
// be provoked from outside (an endpoint that cannot be reached, say), and the
// log must not be the thing that fills up.
const (
	deviceLogRate  = 5
	deviceLogBurst = 20
)

// deviceLogger passes the device's errors on. The device writes shortened
// public keys into them and never a private or preshared one; its verbose lines
// are not asked for.
func deviceLogger(log *slog.Logger) *device.Logger {
	limit := rate.NewLimiter(deviceLogRate, deviceLogBurst)
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			if limit.Allow() {
				log.Error("wireguard device", "error", fmt.Sprintf(format, args...))
			}
		},
	}
}

// contain stops a panic at the flow it came from: deferred around every call
// out of this package. what names the callback.
func (t *Tunnel) contain(what string) {
	if v := recover(); v != nil {
		t.counters.panics.Add(1)
		t.log.Error("panic in tunnel callback", "callback", what, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	}
}
