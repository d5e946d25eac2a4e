package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// TestI12_TheWireGuardKeyIsTheAgentHostsAlone: made there, closed to others
// there, and nowhere in what the gateway keeps or says.
func TestI12_TheWireGuardKeyIsTheAgentHostsAlone(t *testing.T) {
	const path = "/var/lib/clawpatrol-agent/private/state.json"
	text, err := os.ReadFile(agent.Path(path))
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Key string `json:"wireguard_private_key"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(state.Key)
	if err != nil || len(key) != 32 {
		t.Fatalf("the agent host's state has no WireGuard key: %v", err)
	}
	if info, err := os.Stat(agent.Path(path)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", path, info.Mode(), err)
	}
	kept := [][]byte{[]byte(gateway.Log.String()), []byte(agent.Output.String())}
	for _, name := range []string{"clawpatrol.db", "clawpatrol.db-wal"} {
		b, err := gateway.StateFile(name)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, b)
	}
	for _, b := range kept {
		for _, spelt := range [][]byte{key, []byte(state.Key), []byte(hex.EncodeToString(key))} {
			if bytes.Contains(b, spelt) {
				t.Error("the gateway, or the output of join, has the agent host's WireGuard key")
			}
		}
	}
}
