package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	ordersHost     = "db.example.com"
	ordersRole     = "orders_ro"
	ordersPassword = "p4ssword-the-agent-never-holds"
)

// postgresLeg has Debian's PostgreSQL server as the upstream: it lets in nobody
// but by SCRAM over TLS, and logs who it was. The credential is read_only, the
// role is not.
func postgresLeg(ctx context.Context, l *lab.Lab) (leg, error) {
	server, err := l.StartPostgres(ctx, lab.PostgresConfig{
		Names:  []string{ordersHost},
		Offset: 2,
		HBA:    "hostssl all all all scram-sha-256",
		Setup: `
CREATE ROLE ` + ordersRole + ` LOGIN PASSWORD '` + ordersPassword + `';
CREATE DATABASE orders OWNER ` + ordersRole + `;
\c orders
SET ROLE ` + ordersRole + `;
CREATE TABLE orders (id int, customer text);
INSERT INTO orders VALUES (1, 'Ada'), (2, 'Grace');`,
	})
	if err != nil {
		return leg{}, err
	}
	return leg{
		title: "Postgres: psql on the agent host",
		policy: `
endpoint "postgres" "orders" {
  hosts   = ["` + ordersHost + `"]
  ca_file = "lab-ca.pem"
}
credential "postgres" "orders_ro" {
  endpoint  = postgres.orders
  user      = "` + ordersRole + `"
  databases = ["orders"]
  read_only = true
}
`,
		files:   map[string]string{"lab-ca.pem": string(l.PKI.PEM)},
		profile: []string{"postgres.orders_ro"},
		credential: func(ctx context.Context, op *lab.Operator) error {
			return op.Do(ctx, "PUT", "/api/credentials/postgres/orders_ro", map[string]any{"slots": map[string]string{"password": ordersPassword}}, nil)
		},
		show: func(ctx context.Context, agent *lab.Joined) error {
			const psql = "psql -XAtw -h " + ordersHost + " -U " + ordersRole + " orders "
			server.Log.Mark()
			for _, step := range []struct{ line, want string }{
				{"env | grep -c PGPASSWORD", "0\n"},
				{psql + `-c "SELECT customer FROM orders ORDER BY id"`, "Ada\nGrace\n"},
				{psql + `-c "DELETE FROM orders" 2>&1`, "denied by the gateway"},
				{psql + `-c "SELECT count(*) FROM orders"`, "2\n"},
			} {
				out, err := agent.Run(ctx, "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "-i", "HOME=/", "PATH=/usr/bin:/bin", "sh", "-c", step.line+" || :")
				if err != nil {
					return err
				}
				fmt.Printf("  agent$ %s\n", step.line)
				for line := range strings.Lines(out) {
					fmt.Print("         ", line)
				}
				if !strings.Contains(out, step.want) {
					return fmt.Errorf("%s printed %q", step.line, out)
				}
				if strings.Contains(out, ordersPassword) {
					return fmt.Errorf("the agent saw the password")
				}
			}
			fmt.Println("  and this is what the upstream saw:")
			seen := 0
			for line := range strings.Lines(server.Log.String()) {
				if _, who, ok := strings.Cut(line, "connection authenticated: "); ok {
					method, _, _ := strings.Cut(who, " (")
					indent(method)
					seen++
				}
			}
			if seen != 3 {
				return fmt.Errorf("the upstream has let %s in %d times, not 3:\n%s", ordersRole, seen, server.Log)
			}
			return nil
		},
	}, nil
}
