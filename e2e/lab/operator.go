package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"time"
)

// Operator calls the management API as an operator would, from the gateway
// host's loopback, logged in.
type Operator struct {
	Password string
	base     string
	client   *http.Client
	session  http.Header // the cookies
}

// Registration is what the API says of one.
type Registration struct {
	ID            string            `json:"id"`
	Name          string            `json:"name"`
	State         string            `json:"state"`
	UserCode      string            `json:"user_code"`
	Addresses     []string          `json:"addresses"`
	Pin           map[string]string `json:"pin"`
	Profiles      []string          `json:"profiles"`
	LastHandshake *time.Time        `json:"last_handshake"`
	BlockedReason string            `json:"blocked_reason"`
}

// Action is a row of the action log.
type Action struct {
	Registration string `json:"registration"`
	Endpoint     string `json:"endpoint"`
	Credential   string `json:"credential"`
	Protocol     string `json:"protocol"`
	Summary      string `json:"summary"`
	Verdict      string `json:"verdict"`
	Reason       string `json:"reason"`
	Status       string `json:"status"`
	BytesIn      int64  `json:"bytes_in"`
	BytesOut     int64  `json:"bytes_out"`
}

func newOperator(h *Host, addr, password string) *Operator {
	return &Operator{Password: password, base: "http://" + addr, client: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return h.Dial(ctx, network, addr)
		}},
	}}
}

// Do calls the API. in and out are JSON, or nil. The error quotes the answer.
func (o *Operator) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, o.base+path, body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, o.session)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(answer))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// Registrations lists them.
func (o *Operator) Registrations(ctx context.Context) ([]Registration, error) {
	var list struct{ Items []Registration }
	return list.Items, o.Do(ctx, "GET", "/api/registrations", nil, &list)
}

// Registration returns one.
func (o *Operator) Registration(ctx context.Context, id string) (r Registration, err error) {
	return r, o.Do(ctx, "GET", "/api/registrations/"+id, nil, &r)
}

// Approve approves a registration with these profiles.
func (o *Operator) Approve(ctx context.Context, r Registration, profiles ...string) error {
	return o.Do(ctx, "POST", "/api/registrations/"+r.ID+"/approve", map[string]any{"profiles": profiles, "user_code": r.UserCode}, nil)
}

// SetProfiles replaces a registration's profiles.
func (o *Operator) SetProfiles(ctx context.Context, id string, profiles ...string) error {
	return o.Do(ctx, "PUT", "/api/registrations/"+id+"/profiles", map[string]any{"profiles": profiles}, nil)
}

// Block blocks a registration.
func (o *Operator) Block(ctx context.Context, id, reason string) error {
	return o.Do(ctx, "POST", "/api/registrations/"+id+"/block", map[string]any{"reason": reason}, nil)
}

// Revoke ends a registration for good.
func (o *Operator) Revoke(ctx context.Context, id string) error {
	return o.Do(ctx, "DELETE", "/api/registrations/"+id, nil, nil)
}

// SetCredential stores a credential's secret; credential is "type.name".
func (o *Operator) SetCredential(ctx context.Context, typ, name, value string) error {
	return o.Do(ctx, "PUT", "/api/credentials/"+typ+"/"+name, map[string]any{"slots": map[string]string{"secret": value}}, nil)
}

// Actions returns the newest rows of the log.
func (o *Operator) Actions(ctx context.Context) ([]Action, error) {
	var list struct{ Items []Action }
	return list.Items, o.Do(ctx, "GET", "/api/actions?limit=500", nil, &list)
}

// Text returns what a GET of path answers, page or API.
func (o *Operator) Text(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", o.base+path, nil)
	if err != nil {
		return "", err
	}
	maps.Copy(req.Header, o.session)
	resp, err := o.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return string(b), err
}

// Anonymous calls a route with no credential but, where it is not empty, a
// password to try.
func (o *Operator) Anonymous(ctx context.Context, method, path, password string) (status int, location string, err error) {
	header := http.Header{}
	if password != "" {
		header.Set("X-Clawpatrol-Secret", password)
	}
	resp, err := o.raw(ctx, method, path, "", header, nil)
	if err != nil {
		return 0, "", err
	}
	return resp.StatusCode, resp.Header.Get("Location"), nil
}

// Forged calls a route with the operator's cookie, as a foreign page would.
func (o *Operator) Forged(ctx context.Context, method, path, host string, header http.Header) (status int, err error) {
	h := maps.Clone(o.session)
	maps.Copy(h, header)
	resp, err := o.raw(ctx, method, path, host, h, nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// Login tries a password.
func (o *Operator) Login(ctx context.Context, password string) (status int, err error) {
	resp, err := o.login(ctx, password)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

func (o *Operator) login(ctx context.Context, password string) (*http.Response, error) {
	b, err := json.Marshal(map[string]string{"password": password})
	if err != nil {
		return nil, err
	}
	return o.raw(ctx, "POST", "/api/login", "", http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(b))
}

// startSession logs in for good: sessions outlive a restart of the gateway.
func (o *Operator) startSession(ctx context.Context) error {
	resp, err := o.login(ctx, o.Password)
	if err != nil {
		return fmt.Errorf("logging in: %w", err)
	}
	o.session = http.Header{}
	for _, c := range resp.Cookies() {
		o.session.Add("Cookie", c.Name+"="+c.Value)
	}
	if len(o.session) == 0 {
		return fmt.Errorf("logging in: %s without a cookie", resp.Status)
	}
	return nil
}

// raw makes one request, follows nothing, and drops the body.
func (o *Operator) raw(ctx context.Context, method, path, host string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, o.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header, req.Host = header, host
	resp, err := o.client.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}

// FirstRun chooses the root password of a gateway that has none, and logs in.
func (l *Lab) FirstRun(ctx context.Context, addr, password string) (*Operator, error) {
	o := newOperator(l.Gateway, addr, password)
	b, err := json.Marshal(map[string]string{"password": password})
	if err != nil {
		return nil, err
	}
	resp, err := o.raw(ctx, "POST", "/api/setup", "", http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("setting up: %s", resp.Status)
	}
	return o, o.startSession(ctx)
}
