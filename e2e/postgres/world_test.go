package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The names. One server has all of them but middleHost.
const (
	ordersHost = "db.example.com"
	mappedHost = "mapped.example.com" // an agent may ask for anybody there
	brokenHost = "broken.example.com" // the credential's password is not the role's
	unsetHost  = "unset.example.com"  // the credential has no secret
	wrongHost  = "wrong.example.com"  // the server's certificate is for other names
	streamHost = "stream.example.com" // lets replication connections through
	middleHost = "middle.example.com" // somebody stands before the server, with a good certificate
)

// The roles: each is let in by the method of its name.
const (
	appUser      = "orders_app" // scram
	md5User      = "orders_md5"
	certUser     = "orders_cert"
	readOnlyUser = "orders_ro"  // scram
	regressUser  = "regression" // scram; a superuser, for PostgreSQL's own tests
	crowdUser    = "crowd"      // scram; has two connections
	streamUser   = "stream"     // scram; may replicate
)

// Passwords, and the key of certUser's certificate, are the world's secrets.
var passwords = map[string]string{
	appUser:      "REALpasswordOfApp-8642",
	md5User:      "REALpasswordOfMD5-9753",
	readOnlyUser: "REALpasswordOfReadOnly-1597",
	regressUser:  "REALpasswordOfRegression-2468",
	crowdUser:    "REALpasswordOfCrowd-3579",
	streamUser:   "REALpasswordOfStream-6802",
	"broken":     "REALpasswordOfNobody-4680",
}

// world is a lab with the server, the gateway and a joined agent host.
type world struct {
	lab      *lab.Lab
	gateway  *lab.Gateway
	agent    *lab.Joined
	other    *lab.Joined // has no Postgres credential
	server   *lab.Postgres
	prepared prepared
	key      string // of certUser's certificate
}

// setup makes the roles and what they work on.
const setup = `
CREATE ROLE orders_app LOGIN PASSWORD '%[1]s';
SET password_encryption = 'md5';
CREATE ROLE orders_md5 LOGIN PASSWORD '%[2]s';
RESET password_encryption;
CREATE ROLE orders_cert LOGIN;
CREATE ROLE orders_ro LOGIN PASSWORD '%[3]s';
CREATE ROLE regression LOGIN SUPERUSER PASSWORD '%[4]s';
CREATE ROLE crowd LOGIN CONNECTION LIMIT 2 PASSWORD '%[5]s';
CREATE ROLE stream LOGIN REPLICATION PASSWORD '%[6]s';
CREATE ROLE other_team;
GRANT other_team, pg_read_all_data TO orders_ro;
CREATE DATABASE orders OWNER orders_app;
CREATE DATABASE copy OWNER orders_app;
\c orders
SET ROLE orders_app;
CREATE TABLE orders (id serial PRIMARY KEY, customer text NOT NULL, amount numeric(12,2), placed timestamptz DEFAULT '2026-01-01');
INSERT INTO orders (customer, amount) SELECT 'customer ' || i, i * 1.25 FROM generate_series(1, 1000) i;
CREATE VIEW large AS SELECT * FROM orders WHERE amount > 1000;
CREATE FUNCTION add_order(c text) RETURNS int LANGUAGE sql AS 'INSERT INTO orders (customer) VALUES (c) RETURNING id';
GRANT ALL ON ALL TABLES IN SCHEMA public TO orders_ro, orders_md5, orders_cert, crowd;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO orders_ro;
`

func newWorld(ctx context.Context, l *lab.Lab, p prepared) (*world, error) {
	w := &world{lab: l, prepared: p}
	if err := w.standBetween(ctx); err != nil {
		return nil, err
	}
	var starting errgroup.Group
	starting.Go(func() (err error) {
		w.server, err = l.StartPostgres(ctx, lab.PostgresConfig{
			Names:     []string{ordersHost, mappedHost, brokenHost, unsetHost, streamHost},
			MoreNames: []string{wrongHost},
			Offset:    20,
			HBA: `
hostssl all orders_md5  all md5
hostssl all orders_cert all cert
hostssl all all         all scram-sha-256
hostssl replication all all scram-sha-256`,
			Settings: "max_connections = 60\nwal_level = logical\nautovacuum = off", // a row that moves would be a difference
			Setup: fmt.Sprintf(setup, passwords[appUser], passwords[md5User], passwords[readOnlyUser],
				passwords[regressUser], passwords[crowdUser], passwords[streamUser]),
		})
		return err
	})
	starting.Go(func() (err error) {
		if w.gateway, err = l.StartGateway(ctx, policy, map[string]string{"lab-ca.pem": string(l.PKI.PEM)}); err != nil {
			return err
		}
		if err := w.storeSecrets(ctx); err != nil {
			return err
		}
		var joining errgroup.Group
		for i, profile := range []string{"ci", "none"} {
			joining.Go(func() error {
				j, err := l.Join(ctx, l.Agents[i], w.gateway, profile)
				if err != nil {
					return err
				}
				if profile == "ci" {
					w.agent = j
				} else {
					w.other = j
				}
				return j.Script(ctx, fmt.Sprintf("mkdir -p /var/home; useradd --create-home --home-dir %s --shell /bin/sh %s", agentHome, agentUser))
			})
		}
		return joining.Wait()
	})
	return w, errors.Join(starting.Wait(), w.prepareDirect(ctx))
}

func (w *world) storeSecrets(ctx context.Context) error {
	certificate, key, err := w.lab.PKI.IssueClient(certUser)
	if err != nil {
		return err
	}
	w.key = string(key)
	for credential, slots := range map[string]map[string]string{
		"app":     {"password": passwords[appUser]},
		"md5":     {"password": passwords[md5User]},
		"cert":    {"client_certificate": string(certificate), "client_key": w.key},
		"ro":      {"password": passwords[readOnlyUser]},
		"regress": {"password": passwords[regressUser]},
		"crowd":   {"password": passwords[crowdUser]},
		"mapped":  {"password": passwords[appUser]},
		"broken":  {"password": passwords["broken"]},
		"wrong":   {"password": passwords[appUser]},
		"middle":  {"password": passwords[appUser]},
		"stream":  {"password": passwords[streamUser]},
	} {
		if err := w.gateway.Operator.Do(ctx, "PUT", "/api/credentials/postgres/"+credential, map[string]any{"slots": slots}, nil); err != nil {
			return err
		}
	}
	return nil
}

var policy = func() string {
	var b strings.Builder
	for name, host := range map[string]string{"orders": ordersHost, "mapped": mappedHost, "broken": brokenHost, "unset": unsetHost, "wrong": wrongHost, "stream": streamHost, "middle": middleHost} {
		fmt.Fprintf(&b, "endpoint \"postgres\" %q {\nhosts = [%q]\nca_file = \"lab-ca.pem\"\noptions = [\"work_mem\"]\nreplication = %t\n}\n", name, host, host == streamHost)
	}
	var all []string
	for _, c := range []struct{ name, endpoint, user, more string }{
		{"app", "orders", appUser, `databases = ["orders", "copy"]`},
		{"md5", "orders", md5User, `databases = ["orders"]`},
		{"cert", "orders", certUser, `databases = ["orders"]`},
		{"ro", "orders", readOnlyUser, "databases = [\"orders\"]\nread_only = true"},
		{"regress", "orders", regressUser, `databases = ["regression"]`},
		{"crowd", "orders", crowdUser, `databases = ["orders"]`},
		{"mapped", "mapped", appUser, "databases = [\"orders\"]\nmismatch = \"map\""},
		{"broken", "broken", appUser, `databases = ["orders"]`},
		{"unset", "unset", appUser, `databases = ["orders"]`},
		{"wrong", "wrong", appUser, `databases = ["orders"]`},
		{"middle", "middle", appUser, `databases = ["orders"]`},
		{"stream", "stream", streamUser, `databases = ["orders", "replication"]`},
	} {
		fmt.Fprintf(&b, "credential \"postgres\" %q {\nendpoint = postgres.%s\nuser = %q\n%s\n}\n", c.name, c.endpoint, c.user, c.more)
		all = append(all, "postgres."+c.name)
	}
	fmt.Fprintf(&b, "endpoint \"https\" \"api\" { hosts = [\"api.example.com\"] }\ncredential \"bearer\" \"api\" { endpoint = https.api }\n")
	fmt.Fprintf(&b, "profile \"ci\" { credentials = [%s] }\nprofile \"none\" { credentials = [bearer.api] }\n", strings.Join(all, ", "))
	return b.String()
}()

// prepareDirect lets who is in the world itself connect without a gateway, under
// the same name, as what a session is without a gateway is tried there.
func (w *world) prepareDirect(ctx context.Context) error {
	hosts := "127.0.0.1 localhost\n"
	for _, a := range lab.WorldAddresses(20) {
		hosts += a.String() + " " + ordersHost + "\n"
	}
	pass := ""
	for role, password := range passwords {
		pass += "*:*:*:" + role + ":" + password + "\n"
	}
	if err := w.lab.World.WriteFile("/etc/hosts", hosts, 0o644); err != nil {
		return err
	}
	if err := w.lab.World.WriteFile("/etc/lab-ca.pem", string(w.lab.PKI.PEM), 0o644); err != nil {
		return err
	}
	return w.lab.World.WriteFile(directPasswords, pass, 0o600)
}

// directPasswords is where the world's root has them.
const directPasswords = "/root/.pgpass"
