package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// pgbenchModes are the ways of asking: a message for all, several for each
// statement, and those with the statement prepared.
var pgbenchModes = []string{"simple", "extended", "prepared"}

// postgresRows compares Postgres with a splice that does not look at the bytes,
// with pgbouncer, and with no proxy at all: where none has a tunnel, and through
// the tunnels.
func (m *meter) postgresRows(ctx context.Context) error {
	if !m.wantsPostgres() {
		return nil
	}
	p, err := m.stage.startDatabase(ctx)
	if err != nil {
		return err
	}
	s := m.stage
	client, upstream := otherPart("pgbench", pid(os.Getpid())), otherPart("PostgreSQL", tree(p.server.PID()))
	plain := func(addr string) pgbench { return pgbench{host: s.plain, addr: addr, user: benchRole} }
	gateway := lab.GatewayIPv4.String()
	direct := plain(lab.WorldAddresses(databaseOffset)[0].String() + ":" + lab.PostgresPort)
	direct.tls = true
	places := []struct {
		prefix, title          string
		splice, bouncer, ours  pgbench
		spliceParts, ourParts  []part
		bouncerParts           []part
		clients                []int
		connects, readOnlyRows bool
	}{
		{
			prefix: "alone: ", title: "the Postgres handler alone, no tunnel",
			splice: plain(gateway + ":" + databaseSplicePort), bouncer: plain(gateway + ":" + bouncerPort), ours: plain(gateway + ":" + databaseHandlerPort),
			spliceParts:  []part{gatewayPart("splice", pid(p.spliceAlone.Process.Pid)), client, upstream},
			bouncerParts: []part{gatewayPart("pgbouncer", tree(p.bouncer.Process.Pid)), client, upstream},
			ourParts:     []part{gatewayPart("handler", pid(p.handlerAlone.Process.Pid)), client, upstream},
			clients:      []int{1, 16, 32}, connects: true, readOnlyRows: true,
		},
		{
			title:  "Postgres through the tunnel",
			splice: plain("10.79.0.1:" + lab.PostgresPort), bouncer: plain("10.77.0.1:" + bouncerPort),
			ours:        pgbench{host: s.joined.Host, addr: p.virtual + ":" + lab.PostgresPort, user: benchRole},
			spliceParts: []part{gatewayPart("splice", pid(p.splice.Process.Pid)), otherPart("tunnel's other end", pid(p.spliceAgent.Process.Pid)), client, upstream},
			bouncerParts: []part{gatewayPart("pgbouncer", tree(p.bouncer.Process.Pid)), gatewayPart("WireGuard", pid(s.plainPeer.Process.Pid)),
				otherPart("tunnel's other end", pid(s.plainAgent.Process.Pid)), client, upstream},
			clients:  []int{16},
			ourParts: []part{gatewayPart("gateway", pid(s.gateway.PID())), otherPart("tunnel's other end", pid(s.joined.PID())), client, upstream},
		},
	}
	var errs []error
	for _, at := range places {
		at.splice.user = benchSpliceRole
		t := &table{meter: m, title: at.title, names: []string{"direct", "splice", "pgbouncer", "ours"}, against: []int{0, 1, 2}, compared: []int{1, 2}}
		all := func(set func(pgbench) pgbench) []contender {
			return []contender{
				{[]part{client, upstream}, set(direct).open},
				{at.spliceParts, set(at.splice).open},
				{at.bouncerParts, set(at.bouncer).open},
				{at.ourParts, set(at.ours).open},
			}
		}
		for _, mode := range pgbenchModes {
			for _, clients := range at.clients {
				name := at.prefix + pgbenchRow(mode, clients)
				errs = append(errs, t.row(ctx, row{name, "/s", "0.97 of the splice, 0.95 of pgbouncer", "", ""},
					all(func(b pgbench) pgbench { b.mode, b.clients = mode, clients; return b })...))
			}
		}
		if at.connects {
			errs = append(errs, t.row(ctx, row{connectsRow, "/s", "", connectingRow, "+1000 to pgbouncer"},
				all(func(b pgbench) pgbench { b.mode, b.clients, b.connects = "simple", 1, true; return b })...))
		}
		errs = append(errs, t.end(nil))
		if !at.readOnlyRows {
			continue
		}
		t = &table{meter: m, title: "statements looked into", names: []string{"ours", "ours, read_only"}, against: []int{0}, compared: []int{0}}
		for _, mode := range pgbenchModes {
			ours := at.ours
			ours.mode, ours.clients = mode, 16
			readOnly := ours
			readOnly.user = benchReadOnlyRole
			name := at.prefix + pgbenchRow(mode, ours.clients) + readOnlySuffix
			errs = append(errs, t.row(ctx, row{name, "/s", "0.85", "", ""}, contender{at.ourParts, ours.open}, contender{at.ourParts, readOnly.open}))
		}
		errs = append(errs, t.end(nil))
	}
	return errors.Join(errs...)
}

// The names of rows that are not pgbenchRow's.
const (
	connectsRow   = "alone: pgbench -S -C, 1 client"
	connectingRow = "alone: connecting, mean, and what ours adds"

	readOnlySuffix = ", read_only"
)

func pgbenchRow(mode string, clients int) string {
	if clients == 1 {
		return "pgbench -S, " + mode + ", 1 client"
	}
	return fmt.Sprintf("pgbench -S, %s, %d clients", mode, clients)
}

// wantsPostgres tells whether any row may be wanted: the server takes a while.
func (m *meter) wantsPostgres() bool {
	for _, mode := range pgbenchModes {
		for _, clients := range []int{1, 16, 32} {
			for _, prefix := range []string{"", "alone: "} {
				if name := prefix + pgbenchRow(mode, clients); m.only.MatchString(name) || m.only.MatchString(name+readOnlySuffix) {
					return true
				}
			}
		}
	}
	return m.only.MatchString(connectsRow) || m.only.MatchString(connectingRow)
}
