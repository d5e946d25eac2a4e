package postgres

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// maxName is how much of a name that an agent sent is shown, in bytes. PostgreSQL's
// own have NAMEDATALEN-1, 63.
const maxName = 63

// login is who an agent asks to be.
type login struct{ user, database string }

// loginOf reads it from a startup message. libpq sends the user's name as the
// database where none is given, so that says nothing.
func loginOf(o *opening) (login, error) {
	l := login{user: o.get("user"), database: o.get("database")}
	if l.user == "" {
		return l, &fatal{code: invalidAuthorization, message: "no PostgreSQL user name specified in startup packet"}
	}
	if l.database == l.user {
		l.database = ""
	}
	return l, nil
}

// summary is the connection in the action log.
func (l login) summary(c *policy.Credential) string {
	user, database := quoteless(l.user), quoteless(l.database)
	if c != nil {
		user = c.User
		if chosen, ok := l.databaseOf(c); ok {
			database = chosen
		}
	}
	if database == "" {
		database = user
	}
	return "connect " + user + "@" + database
}

// choose picks the credential that is meant among those of the endpoint: by user
// and database, by user, by placeholder, else the first that takes anybody. It is
// nil where none fits.
func (l login) choose(of []*policy.Credential) *policy.Credential {
	for _, fits := range []func(*policy.Credential) bool{
		func(c *policy.Credential) bool {
			return c.User == l.user && (slices.Contains(c.Databases, l.database) || slices.Contains(c.Databases, l.user))
		},
		func(c *policy.Credential) bool { return c.User == l.user },
		func(c *policy.Credential) bool { return c.Placeholder == l.user },
		func(c *policy.Credential) bool { return c.MapMismatch },
	} {
		if i := slices.IndexFunc(of, fits); i >= 0 {
			return of[i]
		}
	}
	return nil
}

// databaseOf is the database that l means with c; false where c is not for it.
func (l login) databaseOf(c *policy.Credential) (string, bool) {
	switch {
	case slices.Contains(c.Databases, l.database):
		return l.database, true
	case len(c.Databases) == 0:
		return "", false
	case l.database == "" && slices.Contains(c.Databases, l.user):
		return l.user, true
	case l.database == "" || c.MapMismatch:
		return c.Databases[0], true
	}
	return "", false
}

// refusal is why l fits none of the credentials, or nil.
func (l login) refusal(of []*policy.Credential) *fatal {
	if len(of) == 0 {
		return nil // the Gate says why
	}
	c := l.choose(of)
	if c == nil {
		return &fatal{
			code:    invalidAuthorization,
			message: "no credential here is for the user " + quoted(l.user) + "; there is " + users(of),
			class:   proxy.CodeDenied,
		}
	}
	if _, ok := l.databaseOf(c); !ok {
		return &fatal{
			code:    insufficientPrivilege,
			message: "permission denied for database " + quoted(l.database) + ": credential " + c.Ref() + " is for " + strings.Join(c.Databases, ", "),
			class:   proxy.CodeDenied,
		}
	}
	return nil
}

func users(of []*policy.Credential) string {
	var names []string
	for _, c := range of {
		if !slices.Contains(names, c.User) {
			names = append(names, c.User)
		}
	}
	return strings.Join(names, ", ")
}

// begin logs in upstream as the agent asks, and lets the agent in. The error is
// fit for the agent where it is a *fatal.
func (c *conversation) begin(o *opening) (*session, error) {
	asked, err := loginOf(o)
	if err != nil {
		return nil, err
	}
	if c.draining() {
		return nil, &fatal{code: cannotConnectNow, message: "the gateway is stopping"}
	}
	if f := asked.refusal(c.flow.Match.Credentials); f != nil {
		c.refuse(asked.summary(nil), f.message)
		return nil, f
	}
	chosen := asked.choose(c.flow.Match.Credentials)
	grant, err := c.flow.Authorize(c.ctx, proxy.Action{Summary: asked.summary(chosen), Choose: asked.choose})
	if err != nil {
		return nil, refused(err)
	}
	s, err := c.open(o, asked, grant)
	if err != nil {
		status := "upstream_error"
		if f, ok := err.(*fatal); ok {
			status = f.status()
			if c.ctx.Err() == nil {
				c.warn("a postgres endpoint could not be used", "credential", grant.Credential.Ref(), "status", status)
			}
		}
		grant.Finish(registry.ActionResult{Status: status})
		return nil, err
	}
	grant.Finish(registry.ActionResult{Status: "connected"})
	return s, nil
}

// open makes the session that grant is for.
func (c *conversation) open(o *opening, asked login, grant *proxy.Grant) (*session, error) {
	credential := grant.Credential
	database, ok := asked.databaseOf(credential)
	if !ok { // the credential is not the one that was asked for: the policy has changed
		return nil, &fatal{code: adminShutdown, message: "the policy for this destination has changed: connect again"}
	}
	settings, err := sessionSettings(o.settings, c.endpoint.Postgres.Options, c.endpoint.Postgres.Replication, credential.ReadOnly)
	if err != nil {
		return nil, err
	}
	if credential.ReadOnly {
		c.handler.warm()
	}
	m, err := meansOf(grant)
	if err != nil {
		return nil, refused(err)
	}
	up, err := c.connect(credential.User, database, settings, m)
	if err != nil {
		return nil, err
	}
	s := newSession(c, up, grant)
	if s.inspects && !s.readable() {
		up.close()
		return nil, &fatal{code: insufficientPrivilege, message: "the session's client_encoding or standard_conforming_strings keep statements from being looked into: the credential is read_only"}
	}
	if s.inspects && !s.readOnlyUpstream() {
		up.close()
		return nil, &fatal{code: insufficientPrivilege, message: c.host + " does not say that the session is read-only, as the credential is: " + readOnlySetting + " did not get there, or was changed"}
	}
	_, minor := o.version()
	key := c.handler.keys.add(s, minor)
	_ = c.flow.Conn.SetWriteDeadline(time.Now().Add(startupTimeout))
	if _, err := c.conn.Write(o.greeting(up.told, key, up.status)); err != nil {
		c.handler.keys.remove(s)
		up.close()
		return nil, err
	}
	_ = c.flow.Conn.SetWriteDeadline(time.Time{})
	up.told = nil
	return s, nil
}

// quoted shows a name that an agent sent.
func quoted(name string) string {
	if len(name) > maxName {
		name = name[:maxName] + "..."
	}
	return strconv.Quote(name)
}

func quoteless(name string) string { return strings.Trim(quoted(name), `"`) }
