package dashboard_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

const postgresHCL = `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "postgres" "orders" {
  hosts   = ["db.example.com"]
  options = ["search_path"]
}
endpoint "postgres" "local" {
  hosts        = ["local.example.com"]
  address      = "127.0.0.1:5432"
  tls          = "disable"
  replication  = true
  log_literals = true
}
credential "postgres" "orders_ro" {
  endpoint  = postgres.orders
  user      = "reader"
  databases = ["orders", "archive"]
  read_only = true
}
credential "postgres" "local" {
  endpoint  = postgres.local
  user      = "app"
  databases = ["app"]
  mismatch  = "map"
}
profile "ci" { credentials = [postgres.orders_ro] }
`

// clientPair returns a certificate to authenticate with, and its key, in PEM.
func clientPair(t testing.TB) (certificate, key string) {
	t.Helper()
	pub, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// A password or a client certificate with its key is set by the API and on the
// page; what cannot work is refused beside its field, what was stored stays, and
// nothing shows a value.
func TestI02_PostgresSecretsAreCheckedWhenSet(t *testing.T) {
	g := newOperated(t)
	g.load(postgresHCL)
	const at, page = "/api/credentials/postgres/orders_ro", "/credentials/postgres/orders_ro"
	slots := func(of map[string]string) string {
		b, err := json.Marshal(map[string]any{"slots": of})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	set := func() string {
		t.Helper()
		var v struct {
			Items []struct {
				User, Mismatch string
				Databases      []string
				ReadOnly       bool `json:"read_only"`
				Together       bool `json:"set_together"`
				Complete       bool
				Slots          []struct {
					Name string
					Set  bool
				}
			}
		}
		read(t, g.api("GET", "/api/credentials", ""), http.StatusOK, &v)
		c, other := v.Items[0], v.Items[1]
		if c.User != "reader" || strings.Join(c.Databases, ",") != "orders,archive" || c.Mismatch != "refuse" || !c.ReadOnly || !c.Together ||
			other.Mismatch != "map" || other.ReadOnly || other.Complete {
			t.Errorf("%+v", v)
		}
		var names []string
		for _, s := range c.Slots {
			if s.Set {
				names = append(names, s.Name)
			}
		}
		if c.Complete != (len(names) > 0) {
			t.Errorf("complete: %t with %q", c.Complete, names)
		}
		return strings.Join(names, ",")
	}
	cert, key := clientPair(t)
	_, otherKey := clientPair(t)

	if got := g.page("/credentials"); strings.Count(got, `<span class="state blocked">missing</span>`) != 2 {
		t.Error("the list does not say that there is nothing to authenticate with")
	}
	if body := g.page(page); strings.Count(body, "<textarea") != 2 || !strings.Contains(body, `<span class="state blocked">missing</span>`) ||
		!strings.Contains(body, "only those that read") || !strings.Contains(body, "<code>archive</code>") || !strings.Contains(body, "are refused") {
		t.Error("the form is not that of a credential for Postgres")
	}
	for body, message := range map[string]string{
		slots(map[string]string{"client_certificate": cert}):                         "client_key: ",
		slots(map[string]string{"client_key": key}):                                  "client_certificate: ",
		slots(map[string]string{"client_certificate": cert, "client_key": otherKey}): "client_key: ",
		slots(map[string]string{"client_certificate": "4711", "client_key": key}):    "client_certificate: ",
		slots(map[string]string{"password": "4711" + strings.Repeat("x", 16<<10)}):   "password: ",
	} {
		var v struct {
			Error struct{ Code, Message string }
		}
		read(t, g.api("PUT", at, body), http.StatusUnprocessableEntity, &v)
		if v.Error.Code != "bad_value" || !strings.HasPrefix(v.Error.Message, message) {
			t.Errorf("%+v, want %s", v, message)
		}
	}
	refused(t, g.api("PUT", at, slots(map[string]string{"password": "4711\x00"})), http.StatusUnprocessableEntity, "bad_value")
	refused(t, g.api("PUT", at, slots(map[string]string{"secret": "4711"})), http.StatusUnprocessableEntity, "unknown_slot")
	if got := set(); got != "" {
		t.Errorf("what was refused is stored: %s", got)
	}
	status(t, g.api("PUT", at, slots(map[string]string{"password": "opensesame-4711\n"})), http.StatusNoContent)
	if got := set(); got != "password" {
		t.Error(got)
	}
	// A certificate takes the password's place.
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	body := status(t, g.post(page, url.Values{"slot.client_certificate": {crlf(cert)}, "slot.client_key": {crlf(otherKey)}}), http.StatusUnprocessableEntity)
	if !strings.Contains(body, `id="problem-client_key"`) || strings.Contains(body, `id="problem-client_certificate"`) {
		t.Error("what is wrong does not stand beside the key")
	}
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	checkMarkup(t, page, doc)
	goesTo(t, g.post(page, url.Values{"slot.password": {""}, "slot.client_certificate": {crlf(cert)}, "slot.client_key": {crlf(key)}}), "/credentials?done=set")
	if got := set(); got != "client_certificate,client_key" {
		t.Error(got)
	}
	seen := html.UnescapeString(g.seen.String()) + g.log.String() // pages write + as &#43;
	for _, secret := range []string{"4711", strings.Split(key, "\n")[1], strings.Split(otherKey, "\n")[1]} {
		if strings.Contains(seen, secret) {
			t.Errorf("%q was shown or logged", secret)
		}
	}
}

func TestPolicy_ListsPostgresEndpoints(t *testing.T) {
	g := newOperated(t)
	g.load(postgresHCL)
	got := status(t, g.api("GET", "/api/endpoints", ""), http.StatusOK)
	want := `{"items":[{"type":"postgres","name":"orders","hosts":["db.example.com:5432"],"ca_file":false,` +
		`"postgres":{"tls":"verify-full","options":["search_path"],"replication":false,"log_literals":false}},` +
		`{"type":"postgres","name":"local","hosts":["local.example.com:5432"],"address":"127.0.0.1:5432","ca_file":false,` +
		`"postgres":{"tls":"disable","options":[],"replication":true,"log_literals":true}}]}` + "\n"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
