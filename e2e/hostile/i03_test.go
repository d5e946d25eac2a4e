package hostile

import (
	"bytes"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// The attack: a stolen database file, and a state directory others can read.
func TestI03_StolenDatabaseYieldsNoSecret(t *testing.T) {
	db, err := gateway.StateFile("clawpatrol.db")
	if err != nil {
		t.Fatal(err)
	}
	wal, err := gateway.StateFile("clawpatrol.db-wal")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	all := append(db, wal...)
	if !bytes.Contains(all, []byte("bearer.api_token")) {
		t.Fatal("the database does not mention the credential at all: the search proves nothing")
	}
	for _, s := range []string{apiToken, opsKey} {
		if bytes.Contains(all, []byte(s)) {
			t.Error("a secret is in the database in plain text")
		}
	}
}

func TestI03_StateFilesAreClosedToOthers(t *testing.T) {
	root := theLab.Gateway.Path("/var/lib/clawpatrol")
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(p, ".crt") {
			t.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestI03_WiderPermissionsStopTheStart(t *testing.T) {
	h := theLab.Gateway
	if err := h.Script(t.Context(), "mkdir -p /root/wide && chmod 755 /root/wide"); err != nil {
		t.Fatal(err)
	}
	policy := strings.NewReplacer("/var/lib/clawpatrol", "/root/wide", ":8443\"\n", ":9443\"\n", "127.0.0.1:8080", "127.0.0.1:9080").Replace(theLab.GatewayBlock("127.0.0.1:9080")) +
		"wireguard { listen = \":51999\" }\n"
	if err := h.WriteFile("/root/wide.hcl", policy, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Run(t.Context(), "timeout", "20", theLab.Bin, "gateway", "/root/wide.hcl")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("a world-readable state directory: %v; want exit status 1 and a hint", err)
	}
}
