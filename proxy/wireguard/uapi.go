package wireguard

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// The WireGuard device is configured in the text of the cross-platform
// interface (https://www.wireguard.com/xplatform/#configuration-protocol). The
// texts hold private and preshared keys: they are wiped after use and never
// part of an error.

// configure applies text and wipes it.
func (t *Tunnel) configure(text []byte) error {
	defer clear(text)
	return t.dev.IpcSetOperation(bytes.NewReader(text))
}

// hexLine returns "name=hex\n" with room for more.
func hexLine(name string, value []byte) []byte {
	line := make([]byte, 0, 512)
	line = append(append(line, name...), '=')
	return append(hex.AppendEncode(line, value), '\n')
}

// peerText sets one peer. The endpoint is set only on a peer that is added:
// one that stays may have roamed since.
func peerText(p Peer, added bool) []byte {
	preshared := p.PresharedKey.Reveal()
	if preshared == nil {
		preshared = make([]byte, 32) // all zero means none
	}
	text := make([]byte, 0, 512+64*len(p.Prefixes)) // never grown, so that wiping it wipes all
	text = append(text, hexLine("public_key", p.PublicKey[:])...)
	text = append(hex.AppendEncode(append(text, "preshared_key="...), preshared), '\n')
	if added && p.Endpoint.IsValid() {
		text = fmt.Appendf(text, "endpoint=%v\n", netip.AddrPortFrom(p.Endpoint.Addr().Unmap(), p.Endpoint.Port()))
	}
	text = append(text, "replace_allowed_ips=true\n"...)
	for _, prefix := range p.Prefixes {
		text = fmt.Appendf(text, "allowed_ip=%v\n", prefix)
	}
	return text
}

// deviceState is what inspect reads; keys stay behind.
type deviceState struct {
	listenPort uint16
	peers      map[[32]byte]PeerStats
}

func (t *Tunnel) inspect() (deviceState, error) {
	var out bytes.Buffer
	defer func() { clear(out.Bytes()) }()
	if err := t.dev.IpcGetOperation(&out); err != nil {
		return deviceState{}, fmt.Errorf("reading WireGuard state: %w", err)
	}
	state, err := parseState(out.Bytes())
	if err != nil {
		return deviceState{}, fmt.Errorf("reading WireGuard state: %w", err)
	}
	return state, nil
}

func parseState(text []byte) (deviceState, error) {
	state := deviceState{peers: make(map[[32]byte]PeerStats)}
	var key [32]byte
	var now PeerStats
	var sec, nsec int64
	started := false
	flush := func() {
		if !started {
			return
		}
		if sec != 0 || nsec != 0 {
			now.LastHandshake = time.Unix(sec, nsec)
		}
		state.peers[key] = now
	}
	for line := range bytes.Lines(text) {
		name, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte("="))
		if !ok {
			continue
		}
		var err error
		switch string(name) {
		case "listen_port":
			var port uint64
			port, err = strconv.ParseUint(string(value), 10, 16)
			state.listenPort = uint16(port)
		case "public_key":
			flush()
			started, now, sec, nsec = true, PeerStats{}, 0, 0
			if n, decodeErr := hex.Decode(key[:], value[:min(len(value), 64)]); decodeErr != nil || n != len(key) {
				err = fmt.Errorf("not a key of %d bytes", len(key))
			}
		case "endpoint":
			now.Endpoint, err = netip.ParseAddrPort(string(value))
		case "last_handshake_time_sec":
			sec, err = strconv.ParseInt(string(value), 10, 64)
		case "last_handshake_time_nsec":
			nsec, err = strconv.ParseInt(string(value), 10, 64)
		case "rx_bytes":
			now.BytesIn, err = strconv.ParseUint(string(value), 10, 64)
		case "tx_bytes":
			now.BytesOut, err = strconv.ParseUint(string(value), 10, 64)
		}
		if err != nil {
			return deviceState{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	flush()
	return state, nil
}
