package https

import (
	"fmt"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/secret"
)

func TestI16_RequestsInFlightAreBoundedPerRegistration(t *testing.T) {
	l := load{max: maxInFlight}
	for range maxInFlight {
		if !l.add("a") {
			t.Fatal("refused below the limit")
		}
	}
	if l.add("a") {
		t.Error("admitted beyond the limit")
	}
	if !l.add("b") {
		t.Error("one registration's load refuses another's")
	}
	l.remove("a")
	if !l.add("a") {
		t.Error("a place that was given back is not there")
	}
	l.remove("b")
	if _, kept := l.of["b"]; kept {
		t.Error("a registration without requests is kept")
	}
}

// The attack: ask for large answers and read none.
func TestI16_WhatSlowAgentsMakeTheGatewayHoldIsBounded(t *testing.T) {
	if most := maxInFlight * maxStreamBuffer; most > 512<<20 {
		t.Errorf("one registration can make the gateway hold %d MiB of answers", most>>20)
	}
	if most := maxInFlight * maxUploadBuffer; most > 512<<20 {
		t.Errorf("one registration can make the gateway hold %d MiB of bodies", most>>20)
	}
}

func TestI02_InjectionPrintsNoSecret(t *testing.T) {
	c := &policy.Credential{Type: "basic", Name: "x", Username: "u"}
	in, err := prepare(c, secret.New([]byte("hunter2hunter2")))
	if err != nil {
		t.Fatal(err)
	}
	p := &pool{injection: in, scrubber: newScrubber(in, placeholder)}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", in, in, in), fmt.Sprintf("%v %+v %#v", p.injection, p.injection, *p.scrubber)} {
		if scrubberOf(t, c, "hunter2hunter2").holds(text) {
			t.Errorf("printed %s", text)
		}
		if masked, found := p.scrubber.mask(text); found {
			t.Errorf("printed %s", masked)
		}
	}
}

func TestNamesHostAndPort(t *testing.T) {
	v6 := policy.Match{Host: "2001:db8::1", Port: 8443}
	v4 := policy.Match{Host: "192.0.2.1", Port: 443}
	name := policy.Match{Host: "a.example.com", Port: 8443}
	for claim, m := range map[string]policy.Match{
		"[2001:db8::1]:8443": v6, "[2001:DB8:0::1]:8443": v6, "192.0.2.1": v4, "192.0.2.1:443": v4, "A.example.com.:8443": name, "a.example.com:08443": name,
	} {
		if !names(claim, m) {
			t.Errorf("%q does not name %s:%d", claim, m.Host, m.Port)
		}
	}
	for claim, m := range map[string]policy.Match{
		"[2001:db8::1]": v6, "2001:db8::1:8443": v6, "[2001:db8::1%eth0]:8443": v6, "[2001:db8::2]:8443": v6, "[2001:db8::1:8443": v6, "[]:8443": v6,
		"192.0.2.1:80": v4, "192.0.2.01": v4, "[192.0.2.1]x": v4, "::ffff:192.0.2.1": v4, "[::ffff:192.0.2.1]": v4,
		"a.example.com": name, "a.example.com:": name, "a.example.com:70000": name, "a.example.com:-1": name, "a.example.com..:8443": name,
		"": name, ":8443": name, "@a.example.com:8443": name, "a.example.com:8443:8443": name,
	} {
		if names(claim, m) {
			t.Errorf("%q names %s:%d", claim, m.Host, m.Port)
		}
	}
	for want, m := range map[string]policy.Match{"[2001:db8::1]:8443": v6, "192.0.2.1": v4, "a.example.com:8443": name, "[::1]": {Host: "::1", Port: 443}} {
		if got := authority(m); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
