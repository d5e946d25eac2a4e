package registry

import (
	"context"
	"net/netip"
)

// VirtualAddresses returns the pair that stands for host towards this
// registration, allocating it on first use. The pair is persisted, stays with
// the host while it is in use and is not given to another host within 24 hours
// of its last use. ErrTableFull: all 4096 of the registration are in use. The
// ranges are the last quarter of each subnet; the same address means different
// hosts to different registrations.
func (db *DB) VirtualAddresses(ctx context.Context, id ID, host string) (v4, v6 netip.Addr, err error) {
	panic("registry: not built yet")
}

// VirtualHost returns the host that a virtual address stands for towards this
// registration, from memory.
func (db *DB) VirtualHost(id ID, a netip.Addr) (host string, ok bool) {
	panic("registry: not built yet")
}

// IsVirtual reports whether a lies in the virtual ranges.
func (db *DB) IsVirtual(a netip.Addr) bool { panic("registry: not built yet") }

// Resolvers returns the gateway's resolver addresses inside the tunnel: the
// first address of each subnet's first range.
func (db *DB) Resolvers() []netip.Addr { panic("registry: not built yet") }
